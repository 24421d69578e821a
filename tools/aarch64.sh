#!/usr/bin/env bash
# Compiles the native module for 64-bit ARM and runs its tests, on an x86-64 machine: tools/aarch64.sh [FILE …].
#
# It needs g++-aarch64-linux-gnu, qemu-user-static and mmdebstrap, and no root: Debian's Python for ARM is unpacked, not
# installed, and qemu runs it. What the tests import are wheels for ARM. All of it stays in build/aarch64, so a second run
# compiles what has changed. Neither PyTorch nor transformers is there: tests that compare with them are left out.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/build/aarch64
root=$work/root packages=$work/packages site=$work/site native=$work/native
soabi=cpython-311-aarch64-linux-gnu
tests=(tests/executor/test_{ops,steps,both_ways,experts,int8_cache,logit_maxima,states,vocabulary,lowering}.py
       tests/sampling/test_native_sampling.py)

for program in aarch64-linux-gnu-g++ qemu-aarch64-static mmdebstrap cmake ninja; do
  command -v "$program" >/dev/null || { echo "aarch64: $program is missing" >&2; exit 2; }
done
host=$(command -v python3.11 || ls ~/.pyenv/versions/3.11.*/bin/python3.11 | head -n 1)
mkdir -p "$work"

if [[ ! -e $root/usr/bin/python3.11 ]]; then
  mmdebstrap --quiet --architectures=arm64 --variant=extract --include=python3.11,libpython3.11-dev,libstdc++6 bookworm "$root"
fi

if [[ ! -e $packages/pytest ]]; then
  "$host" - >"$work/requirements" <<'PYTHON'
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")
PYTHON
  platforms=()
  for glibc in {36..17}; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
  "$host" -m pip install --quiet --target "$packages" --only-binary=:all: --python-version 3.11 "${platforms[@]}" \
    -r "$work/requirements" 'pytest<10' 'hypothesis<7'
fi

# The headers of Debian's Python say that of its architecture is in a folder beside them.
mkdir -p "$work/include"
ln -sfn "$root/usr/include/aarch64-linux-gnu" "$work/include/aarch64-linux-gnu"
[[ -e $work/tools/nanobind ]] || "$host" -m pip install --quiet --target "$work/tools" 'nanobind>=2.4,<4'
PYTHONPATH=$work/tools cmake -S . -B "$native" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux \
  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_CXX_FLAGS="-isystem $work/include" \
  -DPython_EXECUTABLE="$host" -DPython_INCLUDE_DIR="$root/usr/include/python3.11" -DSKBUILD_SOABI=$soabi >"$work/cmake.log"
PYTHONPATH=$work/tools cmake --build "$native"

rm -rf "$site"
mkdir -p "$site"
cp -r src/octavo tests "$site"
rm -f "$site"/octavo/_native.*.so
cp "$native/_native.$soabi.so" "$site/octavo/"
cd "$site"
export PYTHONPATH=$site:$site/tests:$packages PYTHONDONTWRITEBYTECODE=1 OCTAVO_NUM_THREADS=1 root
arm() { qemu-aarch64-static -L "$root" "$root/usr/bin/python3.11" "$@"; }
export -f arm
arm -c 'import platform; from octavo import _native; print(platform.machine(), _native.available_isas())'
# As many files at a time as there are processors.
printf '%s\n' "${@:-${tests[@]}}" \
  | xargs -P "$(nproc)" -I{} bash -c 'arm -m pytest -q -p no:cacheprovider -k "not torch" {} && echo "{}: well"'
