#!/usr/bin/env bash
# The container tests, with a Docker daemon and images of their own. Needs root; installs what is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PATH:/usr/sbin:/sbin"

declare -A programs=([docker.io]=dockerd [docker-compose]=docker-compose [debootstrap]=debootstrap [maven]=mvn)
missing=()
for package in "${!programs[@]}"; do
  command -v "${programs[$package]}" > /dev/null || missing+=("$package")
done
if ((${#missing[@]})); then
  echo "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

# One daemon for both: the compose file end to end, and the container backend of the real-server tests.
exec python -m tests.containers.daemon bash -euo pipefail -c '
  variables=$(python -m tests.containers.images)
  eval "$variables"
  python -m pytest tests/containers -m containers --no-skips "$@"
  TEST_BACKEND=containers python -m pytest tests/real/test_servers.py -m realbroker --no-skips
' tests "$@"
