# Sourced by demo, regress and ssh-audit: a hub on SQLite and one agent, on free ports, in a scratch directory that goes when
# the script ends. Expects the programs in PATH; leaves in $dir, $hub, $agent, $ready what it made, and $auth, the address of Auth.
# shellcheck shell=sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/mezite.XXXXXX")
chmod 755 "$dir"
hub="" agent=""
stop() {
    [ -n "$agent" ] && kill "$agent" 2>/dev/null && wait "$agent" 2>/dev/null || true
    [ -n "$hub" ] && kill "$hub" 2>/dev/null && wait "$hub" 2>/dev/null || true
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT TERM

secret() { od -An -N12 -tx1 /dev/urandom | tr -d ' \n'; }
run() {
    printf '$ %s\n' "$*"
    "$@"
}
wait_until() { # what, command…
    what=$1
    shift
    n=0
    until "$@" >/dev/null 2>&1; do
        n=$((n + 1))
        [ "$n" -lt 300 ] || {
            echo "gave up waiting for $what; logs:" >&2
            tail -n 20 "$dir"/*.log >&2
            exit 1
        }
        sleep 0.1
    done
}
addr() { printf '%s\n' "$ready" | tr ' ' '\n' | sed -n "s/^$1=//p" | sed 's/^127\.0\.0\.1:/localhost:/'; }

start_hub() {
    cat >"$dir/mezite.yaml" <<YAML
cluster_name: demo
data_dir: $dir/hub
log: {format: text}
auth: {listen_addr: "127.0.0.1:0"}
proxy:
  listen_addr: "127.0.0.1:0"
  ssh_listen_addr: "127.0.0.1:0"
  tunnel_listen_addr: "127.0.0.1:0"
  public_addr: localhost
diag: {listen_addr: "127.0.0.1:0"}
YAML
    MEZITE_ADMIN_PASSWORD=$(secret)
    MEZITE_CA_KEY_PASSPHRASE=$(secret)
    export MEZITE_ADMIN_PASSWORD MEZITE_CA_KEY_PASSPHRASE
    mezhub --config="$dir/mezite.yaml" >"$dir/hub.log" 2>&1 &
    hub=$!
    wait_until "the hub" grep -q '^ready ' "$dir/hub.log"
    ready=$(sed -n 's/^ready //p' "$dir/hub.log")
    auth=$(addr auth)
    export MEZITE_HOME="$dir/home" MEZITE_CA_FILE="$dir/hub/tls/ca.pem"
    MEZITE_AUTH_TOKEN=$(mezctl login --auth-server="$auth" --username=admin --password="$MEZITE_ADMIN_PASSWORD")
    export MEZITE_AUTH_TOKEN
    unset MEZITE_ADMIN_PASSWORD MEZITE_CA_KEY_PASSPHRASE
}

# NAME LABELS
start_agent() {
    token=$(mezctl --auth-server="$auth" tokens create --roles=node --ttl=1h 2>/dev/null | awk '{print $3}')
    MEZITE_AUTH_ADDR=$auth MEZITE_PROXY_ADDR=$(addr tunnel) MEZITE_JOIN_TOKEN=$token MEZITE_NODE_NAME=$1 \
        MEZITE_NODE_LABELS=$2 MEZITE_DATA_DIR="$dir/agent" mezd start >"$dir/agent.log" 2>&1 &
    agent=$!
    wait_until "the node" online
}
online() { mezctl --auth-server="$auth" nodes ls | grep -q online; }
