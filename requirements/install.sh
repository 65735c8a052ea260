#!/bin/sh
# Install packages during an image build. Both Dockerfiles run this script, with the build secrets that
# server/Dockerfile describes.
#   install.sh debian PACKAGE...     Debian packages
#   install.sh venv PINS             what PINS names, and nothing else, into the new environment /opt/qwen/venv
#   install.sh system PINS NEEDS     what PINS names, next to the packages of the base image, which stay as they are;
#                                    fails if the result does not meet NEEDS
set -eu

if [ -s /run/index.env ]; then
  set -a
  . /run/index.env
  set +a
fi

action=$1
shift
if [ "$action" = debian ]; then
  apt-get update
  apt-get install -y --no-install-recommends "$@"
  rm -rf /var/lib/apt/lists/*
  exit
fi

export UV_LINK_MODE=copy
if ! command -v uv >/dev/null; then
  python3 -m pip install --quiet --target /tmp/uv uv==0.13.9
  PATH=/tmp/uv/bin:$PATH
fi
case $action in
  venv)
    uv venv --no-project --python "$(command -v python3)" /opt/qwen/venv
    uv pip sync --python /opt/qwen/venv --require-hashes --compile-bytecode "$1"
    ;;
  system)
    uv pip install --system --no-deps --require-hashes --compile-bytecode -r "$1"
    # Without an index, uv can only find that nothing is missing.
    uv pip install --system --no-index --offline --dry-run -r "$2"
    ;;
  *)
    echo "install.sh: unknown action $action" >&2
    exit 2
    ;;
esac
rm -rf /tmp/uv
