#!/bin/sh
# Build a Debian package out of dist/*.whl: dist/mcr_<version>_<architecture>.deb. It brings along its own virtual
# environment, in /usr/lib/mcr, of the distribution's Python.
set -eu
venv=$(realpath "$1")
python=$(realpath "$(PATH=/usr/bin:/bin command -v python3)") || python=""
umask 022

fail() {
	echo "Error: $1" >&2
	echo "hint: $2" >&2
	exit 1
}
[ -n "$python" ] || fail "there is no /usr/bin/python3, which the package is made for" "sudo apt-get install -y python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
	fail "the distribution's Python, $python, is older than 3.11" "use the wheel: make wheel"
command -v dpkg-deb >/dev/null || fail "there is no dpkg-deb" "build it on Debian, or use the wheel: make wheel"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
home=$root/usr/lib/mcr
doc=$root/usr/share/doc/mcr

# The virtual environment: made here, its paths are those it will have.
"$python" -m venv --without-pip "$home"
"$venv/bin/python" -m pip --python "$home/bin/python" install -q --disable-pip-version-check --no-compile \
	--only-binary :all: dist/*.whl
find "$home/bin" -mindepth 1 ! -name mcrd ! -name mcrctl ! -name mcr-extcap -delete
ln -s "$python" "$home/bin/python"
sed -i "1s|.*|#!/usr/lib/mcr/bin/python -I|" "$home/bin/mcrctl" "$home/bin/mcr-extcap"
printf 'home = %s\ninclude-system-site-packages = false\nversion = %s\n' "${python%/*}" \
	"$("$python" -c 'import platform; print(platform.python_version())')" >"$home/pyvenv.cfg"
rm -rf "$home/include"
find "$home" \( -name direct_url.json -o -name RECORD -o -name INSTALLER -o -name REQUESTED \) -delete
find "$home" -name '*.so*' -type f -exec strip --strip-unneeded {} +
"$python" -m compileall -q --invalidation-mode unchecked-hash -s "$root" "$home/lib"

# Everything else.
put() { # MODE SOURCE TARGET
	install -D -m "$1" "$2" "$root/$3"
}
put_all() { # SECTION-PATTERN DIRECTORY: what other steps may have made
	for file in $1; do
		[ ! -e "$file" ] || put 644 "$file" "$2/${file##*/}"
	done
}
mkdir -p "$root/usr/bin"
ln -s ../lib/mcr/bin/mcrd "$root/usr/bin/mcrd"
ln -s ../lib/mcr/bin/mcrctl "$root/usr/bin/mcrctl"
put 644 packaging/systemd/mcrd.service usr/lib/systemd/system/mcrd.service
put 644 packaging/systemd/mcrd.tmpfiles usr/lib/tmpfiles.d/mcrd.conf
put 644 packaging/systemd/mcrd.sysusers usr/lib/sysusers.d/mcrd.conf
put 644 packaging/sysctl/50-mcr.conf usr/lib/sysctl.d/50-mcr.conf
put 644 packaging/default/mcrd etc/default/mcrd
put 644 packaging/prometheus/mcr.rules.yml usr/share/mcr/prometheus/mcr.rules.yml
put 644 packaging/prometheus/scrape.yml usr/share/mcr/prometheus/scrape.yml
put 644 packaging/grafana/mcr.json usr/share/mcr/grafana/mcr.json
put 644 packaging/deb/lintian-overrides usr/share/lintian/overrides/mcr
for section in 1 5 7 8; do
	put_all "packaging/man/*.$section" "usr/share/man/man$section"
done
put_all "packaging/completions/*.bash" usr/share/bash-completion/completions
put_all "packaging/completions/*.fish" usr/share/fish/vendor_completions.d
put_all "packaging/completions/_*" usr/share/zsh/vendor-completions
for each in "$root"/usr/share/bash-completion/completions/*.bash; do
	[ ! -e "$each" ] || mv "$each" "${each%.bash}"
done
put 644 packaging/deb/copyright usr/share/doc/mcr/copyright
(cd docs && find . -type f -printf '%P\n') | while read -r each; do
	put 644 "docs/$each" "usr/share/doc/mcr/$each"
done
put 644 CHANGELOG.md usr/share/doc/mcr/changelog

# What dpkg wants to know.
version=$("$home/bin/python" -I -c 'import mcr; print(mcr.__version__)')
architecture=$(dpkg --print-architecture)
: "${SOURCE_DATE_EPOCH:=$(date +%s)}" # otherwise files would be as old as the installation of this machine
export SOURCE_DATE_EPOCH
cat >"$doc/changelog.Debian" <<END
mcr ($version-1) unstable; urgency=medium

  * Version $version; changelog.gz says what is new.

 -- The MCR developers <mcr@localhost>  $(date -Rd "@$SOURCE_DATE_EPOCH")
END
gzip -9n "$doc/changelog" "$doc/changelog.Debian"
find "$root/usr/share/man" -type f -exec gzip -9n {} + 2>/dev/null || true

mkdir "$root/DEBIAN"
libc=$(echo dist/*.whl | sed -E 's/.*manylinux_([0-9]+)_([0-9]+)_.*/\1.\2/')
next=$("$python" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1] + 1}")')
this=$("$python" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
cat >"$root/DEBIAN/control" <<END
Package: mcr
Version: $version-1
Architecture: $architecture
Maintainer: The MCR developers <mcr@localhost>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: libc6 (>= $libc), python3 (>= $this~), python3 (<< $next), systemd | systemd-standalone-sysusers | systemd-sysusers, systemd | systemd-standalone-tmpfiles | systemd-tmpfiles
Section: net
Priority: optional
Description: multicast relay
 Takes UDP multicast off one network segment and republishes it on others,
 where ordinary multicast routing cannot: it reads frames at layer 2, before the
 kernel's reverse-path check can drop them, and sends the payload again as new
 datagrams from the relay's own address.
 .
 mcrd is the daemon, mcrctl the tool an operator holds.
END
echo /etc/default/mcrd >"$root/DEBIAN/conffiles"
install -m 755 packaging/deb/postinst packaging/deb/prerm packaging/deb/postrm "$root/DEBIAN/"
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"

rm -f dist/*.deb
# As small as by xz's level 1, in a quarter of the time; xz's level 6 takes fifteen times as long, and saves a sixth of the
# size. Each dpkg beside a Python 3.11 reads it (Debian 12, Ubuntu 23.04). Control data stay gzip, which all tools read.
dpkg-deb -Zzstd -z9 --no-uniform-compression --root-owner-group --build "$root" "dist/mcr_${version}-1_$architecture.deb" >/dev/null
ls dist/*.deb
