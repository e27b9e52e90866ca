#!/bin/bash
# KAFKA_SOME_NAME=value becomes some.name=value; then format what is not formatted, and run.
set -euo pipefail
properties=/opt/kafka/config/server.properties
echo "log.dirs=${KAFKA_LOG_DIRS:-/tmp/kraft-combined-logs}" > "$properties"
while IFS='=' read -r -d '' name value; do
  case "$name" in
    KAFKA_HEAP_OPTS | KAFKA_OPTS | KAFKA_LOG_DIRS) ;;
    KAFKA_*)
      key="${name#KAFKA_}"
      key="${key,,}"
      echo "${key//_/.}=$value" >> "$properties"
      ;;
  esac
done < /proc/self/environ
java=(java -XX:+UseSerialGC -Djava.awt.headless=true -cp '/opt/kafka/libs/*')
"${java[@]}" -XX:TieredStopAtLevel=1 kafka.tools.StorageTool format --ignore-formatted \
  --cluster-id "${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}" -c "$properties"
# shellcheck disable=SC2086  # several options in one variable
exec "${java[@]}" ${KAFKA_HEAP_OPTS:--Xmx1g} kafka.Kafka "$properties"
