#!/bin/sh
# Makes up the passwords that compose.yaml reads, where there are none yet. They stay on this machine, in a folder nobody else enters:
# the files themselves can be read by the users inside the containers, which have other numbers than yours.
set -eu
folder=${SECRETS_FOLDER:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
for name in postgres_password grafana_password; do
  if [ ! -s "$folder/$name" ]; then
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "$folder/$name"
    chmod 644 "$folder/$name"
    echo "made up $folder/$name"
  fi
done
