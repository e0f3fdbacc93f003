#!/bin/sh
# A gateway from the command line: what is behind it, a chat, the same as a stream, a conversation that it keeps, a prompt
# as Ollama's documentation has it.
#
#     sh examples/gateway_curl.sh http://127.0.0.1:8000 MODEL      # without MODEL: the first that is listed
#
# A token, where the gateway wants one, comes from the environment: FASTSERVE_API_KEY.
set -eu
url=${1:-http://127.0.0.1:8000}
ask() {
    path=$1
    shift
    curl --silent --show-error --fail-with-body --max-time 600 --header "Content-Type: application/json" \
        --header "Authorization: Bearer ${FASTSERVE_API_KEY:-none}" "$@" "$url$path"
    echo
}

echo "-- models"
models=$(ask /v1/models) || { code=$?; echo "$models"; exit $code; }
echo "$models"
model=${2:-$(echo "$models" | sed -n '1s/[^[]*\[{"id": *"\([^"]*\)".*/\1/p')}

echo "-- servers"
ask /gateway/status

echo "-- a chat"
ask /v1/chat/completions --data "{\"model\": \"$model\", \"max_tokens\": 16,
    \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}"

echo "-- as a stream"
ask /v1/chat/completions --no-buffer --data "{\"model\": \"$model\", \"max_tokens\": 4, \"stream\": true,
    \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}"

echo "-- a conversation that the gateway keeps: each request has the new turn alone"
session=$(ask /conversations --request POST | sed 's/.*"session_id": *"\([^"]*\)".*/\1/')
for turn in "My name is Ada." "What is my name?"; do
    ask /v1/chat/completions --data "{\"model\": \"$model\", \"max_tokens\": 16, \"session_id\": \"$session\",
        \"messages\": [{\"role\": \"user\", \"content\": \"$turn\"}]}"
done
ask "/conversations/$session"
ask "/conversations/$session" --request DELETE

echo "-- Ollama's API"
ask /api/generate --data "{\"model\": \"$model\", \"prompt\": \"Why is the sky blue?\", \"stream\": false,
    \"options\": {\"num_predict\": 16}}"
