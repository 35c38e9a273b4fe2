#!/bin/sh
# Puts another installed version of heatline in force: the former one, or the one that is named. Lines that run go on as
# they are. install.sh ends with it, and leaves it in /usr/local/sbin as heatline-rollback.
set -eu
umask 022
export LC_ALL=C

root=/opt/heatline

fail() {
  echo "heatline-rollback: $*" >&2
  exit 1
}

# A version is installed once the list of its package's files lies there: it is written last.
installed() {
  for each in "$root"/*/share/heatline/SHA256SUMS; do
    each=${each%/share/heatline/SHA256SUMS}
    case ${each##*/} in current | previous | '*') ;; *) printf '%s ' "${each##*/}" ;; esac
  done
}

case ${1-} in
-h | --help)
  echo "Usage: heatline-rollback [VERSION]

Puts the former version of heatline in force, or the one named VERSION, and
keeps the other. Restarts no line.

Example: heatline-rollback"
  exit 0
  ;;
-*) fail "there is no option $1; heatline-rollback [VERSION] puts the former version in force, or VERSION" ;;
esac
[ $# -le 1 ] || fail "$# words came, and at most one is expected, the version to put in force"
[ "$(id -u)" -eq 0 ] || fail "only root can switch versions, and this is $(id -un); run it as root"

current=$(readlink "$root/current" || true)
unchanged=${current:+$current stays in force}
unchanged=${unchanged:-nothing has changed}
version=${1-$(readlink "$root/previous" || true)}
[ -n "$version" ] || fail "no former version is kept in $root; installed: $(installed)"
case $version in */* | .*) fail "$version is no version; installed: $(installed)" ;; esac
share=$root/$version/share/heatline
[ -f "$share/SHA256SUMS" ] ||
  fail "$version is not installed, or not to its end, in $root; name one of these: $(installed)"
[ $# -eq 1 ] || [ "$version" != "$current" ] ||
  fail "$version is in force, and as the former version, too: the last switch was cut short; name one of these: $(installed)"
"$root/$version/bin/heatline" --version >/dev/null ||
  fail "$version does not start on this machine, see above; $unchanged"

# One rename: nobody finds no link.
link() {
  ln -sfn "$2" "$root/.$1"
  mv -fT "$root/.$1" "$root/$1"
}

# All that can fail comes before the switch.
systemd-sysusers "$share/heatline.sysusers" ||
  fail "systemd-sysusers cannot make the user heatline, see above; $unchanged"
systemd-tmpfiles --create "$share/heatline.tmpfiles" ||
  fail "systemd-tmpfiles cannot make /etc/heatline, see above; $unchanged"

# Each file's place, one a line. /etc/systemd/system is left to who runs the machine.
places="heatline@.service /usr/local/lib/systemd/system/heatline@.service 644
heatline.sysusers /usr/local/lib/sysusers.d/heatline.conf 644
heatline.tmpfiles /usr/local/lib/tmpfiles.d/heatline.conf 644
rollback.sh /usr/local/sbin/heatline-rollback 755"
echo "$places" | while read -r name place mode; do
  install -D -m "$mode" "$share/$name" "$place.new" || exit 1
done || fail "the files of the service cannot be put to /usr/local, see above; $unchanged"

if [ "$current" != "$version" ]; then
  [ -z "$current" ] || link previous "$current"
  link current "$version" # the switch
fi
echo "$places" | while read -r name place mode; do
  mv -f "$place.new" "$place"
done

command=/usr/local/bin/heatline
if [ ! -e "$command" ] || [ "$(readlink "$command")" = "$root/current/bin/heatline" ]; then
  mkdir -p /usr/local/bin
  ln -sfn "$root/current/bin/heatline" "$command"
else
  echo "heatline-rollback: $command is not ours and stays; type $root/current/bin/heatline for it" >&2
fi

echo "heatline $version is in force."
previous=$(readlink "$root/previous" || true)
[ -z "$previous" ] || echo "$previous is kept; to put it in force again: heatline-rollback"
[ ! -e /etc/systemd/system/heatline@.service ] ||
  echo "/etc/systemd/system/heatline@.service hides this version's unit: compare them, and delete it if nobody needs it."
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  running=$(systemctl list-units --plain --no-legend --state=active,activating 'heatline@*' | cut -d' ' -f1 | tr '\n' ' ')
  [ -z "$running" ] ||
    echo "What runs, goes on with the version that it started with. Once the line stands still: systemctl restart $running"
else
  echo "systemd does not run here, so it was not told."
fi
