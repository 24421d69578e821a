#!/usr/bin/env bash
# Makes the replicas anew one after the other, with the image and the settings of now; no request fails.
# Run it where `docker compose … up` was run, whose .env is read again. Arguments go to docker compose:
#
#     deploy/compose/rolling-restart.sh -f deploy/compose/compose.yaml -f deploy/compose/compose.gpu.yaml
set -euo pipefail
(($#)) || set -- -f "$(dirname "$0")/compose.yaml"
compose=("${DOCKER:-docker}" compose "$@")
for replica in octavo-1 octavo-2; do
  "${compose[@]}" up -d --no-deps --force-recreate --wait "$replica"
  "${compose[@]}" exec nginx nginx -s reload  # a new container may have a new address
done
