#!/bin/sh
# Installs what an image takes of its distribution: install-packages.sh runtime|build [yes: a C compiler too].
# Python is the distribution's own where that is 3.11 or newer, of Red Hat's the packages of 3.12.
set -eu
case "$1" in
  runtime) debian="python3 ca-certificates" redhat="python3.12 ca-certificates" ;;
  build) debian="python3-venv binutils" redhat="python3.12-pip binutils" ;;
esac
if [ "${2-}" ]; then
  debian="$debian gcc libc6-dev python3-dev"
  redhat="$redhat gcc python3.12-devel"
fi
if command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -qq --yes --no-install-recommends $debian
  rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/* /usr/share/doc /usr/share/man
elif command -v microdnf >/dev/null; then
  microdnf install -y --nodocs --setopt=install_weak_deps=0 $redhat
  microdnf clean all
elif command -v dnf >/dev/null; then
  dnf install -y --nodocs --setopt=install_weak_deps=False $redhat
  dnf clean all
else
  echo "install-packages: there is no apt-get, dnf or microdnf in this base image" >&2
  exit 1
fi
if ! command -v python3 >/dev/null || ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  ln -sf "$(command -v python3.12)" /usr/local/bin/python3  # Red Hat's python3 is older
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
