#!/bin/sh
# Installs heatline from the folder of this script, without a network. Each version gets its own folder in /opt/heatline,
# and is activated only after it was verified on this machine; until then nothing has changed.
set -eu
umask 022 # the service must be able to read what root makes here
unset PYTHONHOME PYTHONPATH
export LC_ALL=C PIP_CONFIG_FILE=/dev/null # pip ignores this machine's configuration

root=/opt/heatline
python=/usr/bin/python3
remove_older=

fail() {
  echo "install.sh: $*" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case $1 in
  -h | --help)
    echo "Usage: sh install.sh [--python PATH] [--remove-older]

Installs this version of heatline to /opt/heatline and activates it. The former
version stays installed; heatline-rollback activates it again. Does not restart
any line.

  --python PATH   the Python to run heatline with [/usr/bin/python3]
  --remove-older  delete all versions except this one and the former one

Example: sh install.sh"
    exit 0
    ;;
  --python)
    [ $# -ge 2 ] || fail "--python needs the path of a Python, such as /usr/bin/python3"
    python=$2
    shift
    ;;
  --remove-older) remove_older=1 ;;
  *) fail "there is no option $1; sh install.sh --help lists them" ;;
  esac
  shift
done

[ "$(id -u)" -eq 0 ] || fail "only root can install to $root, but you are $(id -un); run this as root"
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"

# The package.
if ! damaged=$(sha256sum --check --quiet --strict SHA256SUMS 2>&1); then
  fail "$(echo "$damaged" | head -n 1), so the package is damaged; copy it here again, and compare the sha256 of the archive"
fi
while IFS='=' read -r name value; do
  case $name in
  version) version=$value ;; python) wanted=$value ;; machine) machine=$value ;; glibc) glibc=$value ;;
  size_mib) size_mib=$value ;;
  esac
done <target
set -- "$here"/wheels/pip-*.whl
pip=$1/pip

# The machine.
[ "$(uname -m)" = "$machine" ] ||
  fail "this machine is $(uname -m), but the package is for $machine; get the package for $(uname -m)"
command -v "$python" >/dev/null ||
  fail "there is no $python; install Debian's python3 from the medium that Debian was installed from, or name a Python $wanted: --python PATH"
python=$(command -v "$python")
found=$("$python" -I -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.libc_ver()[1])') ||
  fail "$python does not run, see above; name a Python $wanted that runs: --python PATH"
[ "${found% *}" = "$wanted" ] ||
  fail "$python is Python ${found% *}, but the package is for $wanted; name one: --python PATH, or get the package for ${found% *}"
[ "$(printf '%s\n' "$glibc" "${found#* }" | sort -V | head -n 1)" = "$glibc" ] ||
  fail "this machine has glibc ${found#* }, but the package needs $glibc or newer; install a newer Debian"
case $(readlink -f "$python") in
/home/* | /root/* | /tmp/* | /var/tmp/* | /run/*)
  fail "$python is $(readlink -f "$python"), which the service cannot read; name one elsewhere: --python PATH"
  ;;
esac

mkdir -p "$root"
exec 9>"$root/.lock"
flock -n 9 || fail "another installation is running in $root; wait until it has ended"
current=$(readlink "$root/current" || true)
unchanged=${current:+$current is still active}
unchanged=${unchanged:-nothing has changed}

# Verifies an installation on this machine: every package is installed, and both engines compute the golden tiles of a
# bundle.
verified() {
  [ "$("$1/bin/heatline" --version)" = "heatline, version $version" ] &&
    "$1/bin/python" -I "$pip" --isolated check &&
    "$1/bin/python" -I -c 'import av' &&
    "$1/bin/heatline" bundle verify --engine openvino "$here/share/rehearsal.bundle" &&
    "$1/bin/heatline" bundle verify --engine onnxruntime "$here/share/rehearsal.bundle"
}

# A folder that has been active is never changed, so the same version with other contents gets another folder.
log=$(mktemp)
making=
trap 'rm -f "$log"; [ -z "$making" ] || rm -rf "$making"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
name=$version
count=1
while [ -e "$root/$name" ]; do
  made=$root/$name/share/heatline/SHA256SUMS
  if [ -f "$made" ]; then
    if cmp -s SHA256SUMS "$made" && verified "$root/$name" >"$log" 2>&1; then
      echo "This package is installed already, as $name, and works."
      break
    fi
  elif [ "$name" != "$current" ] && [ "$name" != "$(readlink "$root/previous" || true)" ]; then
    echo "Deleting $root/$name, an incomplete installation."
    rm -rf "${root:?}/$name"
    break
  fi
  count=$((count + 1))
  name=$version-$count
done

if [ ! -e "$root/$name" ]; then
  free_mib=$(($(df -Pk "$root" | awk 'NR == 2 {print $4}') / 1024))
  [ "$free_mib" -ge "$size_mib" ] ||
    fail "$root has $free_mib MiB free, but heatline $version needs $size_mib MiB; make room, for example delete versions that are not active"
  echo "Installing heatline $version to $root/$name; this takes a minute."
  making=$root/$name
  "$python" -I -m venv --without-pip "$making" >"$log" 2>&1 ||
    fail "$python cannot make an environment: $(tail -n 1 "$log"); $unchanged"
  "$making/bin/python" -I "$pip" --isolated --disable-pip-version-check --quiet install \
    --no-index --find-links wheels --no-cache-dir --require-hashes --requirement requirements.txt >"$log" 2>&1 ||
    fail "pip cannot install the wheels: $(grep -m 1 ERROR "$log" || tail -n 1 "$log"); $unchanged"
  verified "$making" >"$log" 2>&1 ||
    fail "heatline $version does not work on this machine: $(tail -n 1 "$log"); $unchanged"
  mkdir -p "$making/share"
  cp -r share "$making/share/heatline"
  sync -f "$making"
  cp SHA256SUMS "$making/share/heatline/SHA256SUMS" # last: it marks a complete installation
  making=
fi

sh share/rollback.sh "$name"

if [ -n "$remove_older" ]; then
  cat /proc/[0-9]*/cmdline >"$log" 2>/dev/null || true # running processes; some may have ended meanwhile
  for each in "$root"/*/; do
    each=${each%/}
    if [ -L "$each" ] || [ ! -f "$each/pyvenv.cfg" ] || [ "${each##*/}" = "$(readlink "$root/current")" ] ||
      [ "${each##*/}" = "$(readlink "$root/previous" || true)" ]; then
      continue
    fi
    if grep -qF "$each/" "$log"; then
      echo "A line still runs with ${each##*/}, which is not deleted; restart the line, then: sh install.sh --remove-older"
    else
      echo "Deleting ${each##*/}, which is neither the active nor the former version."
      rm -rf "$each"
    fi
  done
fi
