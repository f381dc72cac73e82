# The command index. Every target sets up what it needs; the first run takes a minute, later ones start at once.
VENV   := .venv
PYTHON ?= python3
NATIVE := $(shell find mcr/native -name '*.[ch]') mcr/native/build.py mcr/native/cdef.txt mcr/cli/mcrd.c
PACKED := $(shell find mcr packaging docs -type f ! -path 'packaging/man/*' ! -path 'packaging/completions/*' \
	! -name '*.pyc' ! -name '*.so' ! -name '*.o' ! -name '_native.c')

# Tests import the same modules hundreds of times: they are compiled once.
unexport PYTHONDONTWRITEBYTECODE

# As tools/setup.sh does: nothing is compiled again, and no other import finder gets in the way of tests/unit/test_imports.py.
EXTRA := MCR_BUILT_APART=1 $(VENV)/bin/pip install -q --disable-pip-version-check --no-build-isolation \
	--config-settings editable_mode=compat

.PHONY: help setup wheel deb demo test check bpf e2e fuzz chaos crashes interop kernels man bench bench-quick clean

help:
	@echo 'make demo    watch MCR relay a stream between network namespaces of its own'
	@echo 'make test    every test: make check, native code under sanitizers, end to end'
	@echo 'make check   the fast subset: lint, types, unit, actor and kernel tests'
	@echo 'make bpf     compile the eBPF programs (clang-14) into the header that is built with'
	@echo 'make kernels  the tests on older and newer kernels of Debian (an hour or two; KERNEL=5.10: one of them)'
	@echo "make chaos   a plant's year: everything is disturbed at random (ten minutes; SECONDS=60: one; SEED=N)"
	@echo 'make crashes  mcrd is killed 1,000 times while rules change (ROUNDS=50: fewer; SEED=N)'
	@echo 'make fuzz    frame parser, reassembly and control protocol, guided by coverage (a minute; EXECUTIONS=N SECONDS=N SEED=N)'
	@echo 'make interop  other programs across a relay: ffmpeg, upnpc, avahi, on either path (three minutes)'
	@echo 'make bench   measure against other relays, write docs/performance.md (about an hour)'
	@echo 'make bench-quick  the main ratios in two and a half minutes'
	@echo 'make man     write man pages and shell completion to packaging/'
	@echo 'make setup   only build: .venv/bin/mcrd, .venv/bin/mcrctl'
	@echo 'make wheel   a wheel that needs no compiler to install: dist/*.whl'
	@echo 'make deb     a Debian package: dist/*.deb'
	@echo 'make clean   remove what the others made'

setup: $(VENV)/.ready

$(VENV)/.installed: pyproject.toml setup.py tools/setup.sh
	@tools/setup.sh $(PYTHON) $(VENV)
	@touch $@

$(VENV)/.ready: $(VENV)/.installed $(NATIVE)
	@tools/build_native.sh $(VENV)
	@touch $@

wheel: dist/.wheel

dist/.wheel: $(VENV)/.ready $(PACKED) LICENSE README.md MANIFEST.in tools/build_wheel.sh
	@tools/build_wheel.sh $(VENV)
	@touch $@

deb: dist/.deb

dist/.deb: dist/.wheel packaging/man/mcrd.8 CHANGELOG.md tools/build_deb.sh
	@tools/build_deb.sh $(VENV)
	@touch $@

demo: setup
	@$(VENV)/bin/python tools/demo.py

# Properties are tried with fewer examples than by `make test`, and tests that are marked as slow are left out.
check: setup
	@MCR_EXAMPLES=$${MCR_EXAMPLES:-12} tools/check.sh $(VENV)

# Without $(VENV)/.ready, which takes the header.
bpf: $(VENV)/.installed
	@$(VENV)/bin/python tools/build_bpf.py

# Tests four at a time; then those that measure rates or moments, which have the machine for themselves.
LANES := -q --processes 4 --by-test -o console_output_style=classic --disable-plugin-autoload -p trio -p hypothesispytest

# The packages are built beside the checks; the Debian one where there is dpkg.
test: setup
	@MCR_EXAMPLES=100 MCR_SLOW=1 $(MAKE) --no-print-directory -j 2 --output-sync=target check wheel $(if $(shell command -v dpkg-deb),deb)
	@$(VENV)/bin/pytest $(LANES) tests/native tests/e2e tests/packaging

# Not a part of `make test`: it fetches kernels, and takes root.
kernels: setup
	@$(VENV)/bin/python tools/kernels.py $(if $(KERNEL),--kernel $(KERNEL))

chaos: setup
	@PYTHONPATH=tools:tests/e2e $(VENV)/bin/python tools/chaos.py $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

crashes: setup
	@PYTHONPATH=tools:tests/e2e $(VENV)/bin/python tools/crashes.py $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(SEED),--seed $(SEED))

# Not a part of `make test`: it takes programs that tests do without.
interop: setup
	@PYTHONPATH=tools $(VENV)/bin/python tools/interop.py

fuzz: setup
	@$(EXTRA) -e '.[fuzz]'
	@$(VENV)/bin/python tools/fuzz.py $(if $(EXECUTIONS),--executions $(EXECUTIONS)) $(if $(SECONDS),--seconds $(SECONDS)) \
		$(if $(SEED),--seed $(SEED))

e2e: setup
	@$(VENV)/bin/pytest $(LANES) tests/e2e

man: packaging/man/mcrd.8

packaging/man/mcrd.8: $(VENV)/.ready tools/man.py $(shell find mcr -name '*.py')
	@$(VENV)/bin/python tools/man.py packaging

bench: setup
	@$(EXTRA) -e '.[bench]'
	@PYTHONPATH=tools $(VENV)/bin/python -m bench --document docs/performance.md

bench-quick: setup
	@PYTHONPATH=tools $(VENV)/bin/python -m bench --quick

clean:
	rm -rf $(VENV) packaging/man packaging/completions build dist *.egg-info mcr/_native.c mcr/*.so mcr/_native.*.o
	find . -name __pycache__ -prune -exec rm -rf {} +
