#!/usr/bin/env bash
# Install the last release on the kind cluster `qwen-vllm`, upgrade it to this checkout, and fail if
# a model pod was replaced or does not answer. Needs docker, kind, kubectl and Go.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Before the first release there is no tag: then the parent commit is the version to upgrade from.
from=$(git describe --tags --abbrev=0 --match 'v*' HEAD^ 2>/dev/null || git rev-parse HEAD^)
old=$(mktemp --directory)/from
echo "upgrade from $from"
git worktree add --detach "$old" "$from"
trap 'git worktree remove --force "$old"' EXIT

make -C "$old" demo CLUSTER=kind
make images CLUSTER=kind
. .cluster/env

pods() {
  kubectl get pods --selector qwen-vllm.io/service=qwen-news-classifier \
    -o jsonpath='{range .items[*]}{.metadata.uid}{" "}{.status.containerStatuses[0].restartCount}{"\n"}{end}'
}
before=$(pods)
test -n "$before"

tag=$(python3 -c 'from tests.cluster.images import OPERATOR; print(OPERATOR.tag())')
server=$(python3 -c 'from tests.cluster.images import SERVER; print(SERVER.name + ":" + SERVER.tag())')
helm upgrade qwen-operator charts/qwen-operator --namespace qwen-system --wait --timeout 5m \
  --set "image.tag=$tag" --set image.repository=qwen-operator --set "serverImages.cpu=$server"
kubectl wait qwenservice/qwen-news-classifier --for condition=Ready --timeout 3m
helm test qwen-operator --namespace qwen-system

after=$(pods)
if [ "$before" != "$after" ]; then
  echo "the upgrade of the operator touched model pods: $before became $after" >&2
  exit 1
fi
echo "the model pods are the same: $after"
