#!/usr/bin/env bash
# Makes the replicas anew one after the other, with the image and the settings of now; no request fails.
# Arguments go to docker compose: rolling-restart.sh -f compose.yaml -f compose.gpu.yaml
set -euo pipefail
cd "$(dirname "$0")"
compose=("${DOCKER:-docker}" compose "$@")
for replica in octavo-1 octavo-2; do
  "${compose[@]}" up -d --no-deps --force-recreate --wait "$replica"
  "${compose[@]}" exec nginx nginx -s reload  # a new container may have a new address
done
