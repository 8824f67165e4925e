#!/usr/bin/env bash
# Runs a command, once, when the cloud says that it will take this spot machine away: AWS two minutes before,
# Google half a minute. The command tells Ray, so that runs save and go on elsewhere: ray_cluster.yaml
#   deploy/spot_notice.sh ray drain-node ...
set -u
metadata=${METADATA_URL:-http://169.254.169.254}   # of both clouds

get() { curl --silent --fail --max-time 2 "$@"; }

aws_says_so() {
  local token
  token=$(get --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") &&
    get --output /dev/null --header "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action"
}

google_says_so() {
  [ "$(get --header 'Metadata-Flavor: Google' "$metadata/computeMetadata/v1/instance/preempted")" = TRUE ]
}

until aws_says_so || google_says_so; do sleep "${POLL_S:-5}"; done
exec "$@"
