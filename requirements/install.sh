#!/bin/sh
# Install packages during an image build, and make the image small. Both Dockerfiles run this script, with
# the build secrets that server/Dockerfile describes.
#   install.sh debian PACKAGE...     Debian packages
#   install.sh venv PINS             what PINS names, and nothing else, into the new environment /opt/qwen/venv
#   install.sh system PINS NEEDS     what PINS names, next to the packages of the base image, which stay as they are;
#                                    fails if the result does not meet NEEDS
#   install.sh slim PACKAGES         remove from a folder site-packages what the programs never load
#   install.sh certificates PACKAGES have Python's packages trust the authorities that the system trusts
#   install.sh trim ROOT             remove from the system in ROOT what the operator never uses
#   install.sh budget MEGABYTES      print the size of this image; fail if it is larger
set -eu

if [ -s /run/index.env ]; then
  set -a
  . /run/index.env
  set +a
fi

export UV_LINK_MODE=copy
# Bytecode that does not depend on when a file was installed, so that a second build makes the same files.
export PYC_INVALIDATION_MODE=UNCHECKED_HASH
SYSTEM_CERTIFICATES=/etc/ssl/certs/ca-certificates.crt

need_uv() {
  if ! command -v uv >/dev/null; then
    python3 -m pip install --quiet --target /tmp/uv uv==0.13.9
    PATH=/tmp/uv/bin:$PATH
  fi
}

# The client has 1400 generated classes, each loaded at its first use. The operator works with plain objects, and
# kopf looks at two of the classes.
slim_kubernetes() {
  for part in client aio/client; do
    find "$1/kubernetes/$part/api" "$1/kubernetes/$part/models" -type f \
      ! -name '__init__.*' ! -name 'v1_object_meta.*' ! -name 'v1_owner_reference.*' \
      ! -name 'v1_managed_fields_entry.*' -delete
  done
}

action=$1
shift
case $action in
  debian)
    apt-get update
    apt-get install -y --no-install-recommends "$@"
    rm -rf /var/lib/apt/lists/*
    ;;
  venv)
    need_uv
    uv venv --no-project --python "$(command -v python3)" /opt/qwen/venv
    uv pip sync --python /opt/qwen/venv --require-hashes --compile-bytecode "$1"
    rm -rf /tmp/uv
    ;;
  system)
    need_uv
    uv pip install --system --break-system-packages --no-deps --require-hashes --compile-bytecode -r "$1"
    # The Python of a distribution asks not to be changed (PEP 668), which nobody needs in an image. Without an
    # index, uv can only find that nothing is missing.
    uv pip install --system --break-system-packages --no-index --offline --dry-run -r "$2"
    rm -rf /tmp/uv
    ;;
  slim)
    if [ -d "$1/kubernetes" ]; then
      slim_kubernetes "$1"
    fi
    if [ -d "$1/torch" ]; then
      "$1/../../../bin/python" "$(dirname "$0")/without_cuda.py" "$1"
    fi
    ;;
  certificates)
    # Without this, a bundle that is mounted over the system's counts for OpenSSL and not for certifi's users.
    test -s "$SYSTEM_CERTIFICATES"
    test -f "$1/certifi/cacert.pem"
    ln -sf "$SYSTEM_CERTIFICATES" "$1/certifi/cacert.pem"
    ;;
  trim)
    root=${1%/}
    # Python's own installer, editor and tests.
    for python in "$root"/usr/lib/python3 "$root"/usr/lib/python3.* "$root"/usr/local/lib/python3.*; do
      rm -rf "$python"/site-packages/* "$python"/dist-packages/* "$python"/config-3.* "$python/ensurepip" \
        "$python/idlelib" "$python/lib2to3" "$python/pydoc_data" "$python/test" "$python/tkinter" "$python/turtledemo"
    done
    rm -rf "$root"/usr/local/include "$root"/usr/local/lib/pkgconfig \
      "$root"/usr/local/bin/pip* "$root"/usr/local/bin/idle* "$root"/usr/local/bin/2to3* "$root"/usr/local/bin/pydoc*
    # Debian's: nobody installs a package in a pod. The licenses stay.
    find "$root/usr/share/doc" -mindepth 1 ! -type d ! -name copyright -delete
    rm -rf "$root"/usr/share/locale "$root"/usr/share/man "$root"/usr/share/info "$root"/usr/share/perl* \
      "$root"/usr/lib/*-linux-gnu/perl* "$root"/usr/lib/*-linux-gnu/libperl* "$root"/usr/bin/perl* \
      "$root"/usr/lib/*-linux-gnu/gconv "$root"/usr/lib/*-linux-gnu/libapt-* "$root"/usr/lib/apt "$root"/usr/bin/apt* \
      "$root"/var/lib/apt "$root"/var/cache/* "$root"/var/log/*
    # What is gone is not reported by a scan of the image.
    awk 'BEGIN { RS = ""; ORS = "\n\n" } $2 !~ /^(apt|libapt-.*|perl.*|libperl.*)$/' \
      "$root/var/lib/dpkg/status" >"$root/var/lib/dpkg/status.new"
    mv "$root/var/lib/dpkg/status.new" "$root/var/lib/dpkg/status"
    rm -f "$root"/var/lib/dpkg/status-old "$root"/var/lib/dpkg/info/apt.* "$root"/var/lib/dpkg/info/libapt-* \
      "$root"/var/lib/dpkg/info/perl* "$root"/var/lib/dpkg/info/libperl*
    # No program here runs with the rights of another user.
    find "$root/usr" "$root/opt" -type f -perm /6000 -exec chmod a-s {} +
    ;;
  budget)
    # Without what is mounted during the build, by Docker or by tests/cluster/images.py.
    size=$(du -sxb --exclude=/proc --exclude=/sys --exclude=/dev --exclude=/run \
      --exclude=/srv --exclude=/mnt / | cut -f1)
    size=$((size / 1000000))
    echo "the image has $size MB, at most $1 MB are allowed"
    test "$size" -le "$1"
    ;;
  *)
    echo "install.sh: unknown action $action" >&2
    exit 2
    ;;
esac
