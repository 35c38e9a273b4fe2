#!/bin/sh
# Activates another installed version of heatline: the former one, or the version that is named. Running lines are not
# restarted. install.sh runs this script last, and installs it as /usr/local/sbin/heatline-rollback.
set -eu
umask 022
export LC_ALL=C

root=/opt/heatline

fail() {
  echo "heatline-rollback: $*" >&2
  exit 1
}

# A version is installed if the list of its package's files exists: it is written last.
installed() {
  for each in "$root"/*/share/heatline/SHA256SUMS; do
    each=${each%/share/heatline/SHA256SUMS}
    case ${each##*/} in current | previous | '*') ;; *) printf '%s ' "${each##*/}" ;; esac
  done
}

case ${1-} in
-h | --help)
  echo "Usage: heatline-rollback [VERSION]

Activates the former version of heatline, or VERSION. The present version stays
installed. Does not restart any line.

Example: heatline-rollback"
  exit 0
  ;;
-*) fail "there is no option $1; heatline-rollback [VERSION] activates the former version, or VERSION" ;;
esac
[ $# -le 1 ] || fail "there are $# arguments; expected at most one, the version to activate"
[ "$(id -u)" -eq 0 ] || fail "only root can switch versions, but you are $(id -un); run this as root"

current=$(readlink "$root/current" || true)
unchanged=${current:+$current is still active}
unchanged=${unchanged:-nothing has changed}
version=${1-$(readlink "$root/previous" || true)}
[ -n "$version" ] || fail "there is no former version in $root; installed: $(installed)"
case $version in */* | .*) fail "$version is not a version; installed: $(installed)" ;; esac
share=$root/$version/share/heatline
[ -f "$share/SHA256SUMS" ] ||
  fail "$version is not installed, or not completely, in $root; name one of these: $(installed)"
[ $# -eq 1 ] || [ "$version" != "$current" ] ||
  fail "$version is both the active and the former version, because the last switch was interrupted; name one of these: $(installed)"
"$root/$version/bin/heatline" --version >/dev/null ||
  fail "$version does not start on this machine, see above; $unchanged"

# One rename, so that the link always exists.
link() {
  ln -sfn "$2" "$root/.$1"
  mv -fT "$root/.$1" "$root/$1"
}

# Everything that can fail comes before the switch.
systemd-sysusers "$share/heatline.sysusers" ||
  fail "systemd-sysusers cannot make the user heatline, see above; $unchanged"
systemd-tmpfiles --create "$share/heatline.tmpfiles" ||
  fail "systemd-tmpfiles cannot make /etc/heatline, see above; $unchanged"

# One file per line, with its path and mode. /etc/systemd/system is reserved for the machine's administrator.
places="heatline@.service /usr/local/lib/systemd/system/heatline@.service 644
heatline.sysusers /usr/local/lib/sysusers.d/heatline.conf 644
heatline.tmpfiles /usr/local/lib/tmpfiles.d/heatline.conf 644
rollback.sh /usr/local/sbin/heatline-rollback 755"
for each in "$share"/heatline-*@.service; do
  [ ! -e "$each" ] || places="$places
${each##*/} /usr/local/lib/systemd/system/${each##*/} 644"
done
echo "$places" | while read -r name place mode; do
  install -D -m "$mode" "$share/$name" "$place.new" || exit 1
done || fail "the files of the service cannot be written to /usr/local, see above; $unchanged"

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
  echo "heatline-rollback: $command is another program and stays; type $root/current/bin/heatline instead" >&2
fi

echo "heatline $version is active."
previous=$(readlink "$root/previous" || true)
[ -z "$previous" ] || echo "$previous stays installed; to activate it again: heatline-rollback"
[ ! -e /etc/systemd/system/heatline@.service ] ||
  echo "/etc/systemd/system/heatline@.service hides this version's unit: compare them, and delete it if it is not needed."
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  running=$(systemctl list-units --plain --no-legend --state=active,activating 'heatline@*' 'heatline-*@*' | cut -d' ' -f1 | tr '\n' ' ')
  [ -z "$running" ] ||
    echo "Running lines and bridges continue with the version that they started with. When production stops: systemctl restart $running"
else
  echo "systemd does not run here, so it was not reloaded."
fi
