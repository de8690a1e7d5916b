#!/usr/bin/env bash
# Packs the Python packages for `python -m benchmarks.gpu` on a GPU machine that has JAX but no network, into one folder and one archive:
#   - a slim EnvPool (Atari and Box2D with their ROMs; the other families left out), tensorboardX, ml_collections, gymnasium and what they import;
#   - pytest 9, hypothesis and rlax for the oracles' tests, with the part of TensorFlow Probability that distrax imports;
#   - matplotlib with what it imports, for the pictures;
#   - flax, optax, chex and Orbax in the versions that are tested here. JAX, NumPy, SciPy, TensorStore, protobuf and CUDA are the machine's own.
#
#   pack_site.sh OUT_DIR [PYTHON_VERSION=3.12] [ENVPOOL_VERSION=1.2.5] [LOCK=requirements.lock]
#
# Writes OUT_DIR and OUT_DIR.tar.xz, which is what should travel: the folder is several times as large. There:
#   mkdir -p /tmp/site && python3 -m tarfile -e ARCHIVE.tar.xz /tmp/site && export PYTHONPATH=/tmp/site:$PYTHONPATH
# imageio-ffmpeg (68 MB) is left out: record no video there. Needs pip and a network here.
set -euo pipefail
out=${1:?usage: pack_site.sh OUT_DIR [PYTHON_VERSION] [ENVPOOL_VERSION] [LOCK]}
python=${2:-3.12} envpool=${3:-1.2.5} lock=${4:-requirements.lock}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
[ -f "$lock" ] || { echo "no $lock: run in the repository, or name it" >&2; exit 1; }
# Versions without the markers, which pip would hold against this Python and not against the one that is packed for.
sed -n 's/^\([A-Za-z0-9_.-]*==[^ ;]*\).*/\1/p' "$lock" | grep -v '^envpool==' >"$work/versions"
platforms=()
for one in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_24 manylinux_2_17 manylinux2014; do platforms+=(--platform "${one}_x86_64"); done
fetch() {
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version "$python" --implementation cp \
    "${platforms[@]}" --platform any -c "$work/versions" -d "$work/wheels" "$@" 2>"$work/pip" || { cat "$work/pip" >&2; exit 1; }
}
fetch "envpool==$envpool" "envpool-assets>=0.3.0,<0.4.0" tensorboardX ml-collections gymnasium optree dm-env dm-tree \
  farama-notifications glfw cloudpickle absl-py rich markdown-it-py mdurl pygments
fetch flax optax chex orbax-checkpoint etils humanize treescope toolz msgpack simplejson aiofiles importlib-resources zipp
fetch pytest pluggy iniconfig packaging hypothesis sortedcontainers attrs rlax distrax tfp-nightly decorator gast wrapt six
fetch matplotlib contourpy cycler fonttools kiwisolver pyparsing pillow python-dateutil
mkdir -p "$work/site"
for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/site"; done
cd "$work/site"
for family in mujoco gfootball vizdoom jumanji pgx highway toy_text minigrid classic_control procgen; do
  rm -rf "envpool/$family"
  sed -i "/^import envpool\.$family\./d" envpool/entry.py
done
find envpool_assets -mindepth 1 -maxdepth 1 -type d ! -name atari -exec rm -rf {} +
# Of TensorFlow Probability only the substrate for JAX, and the backends that it is made from.
find tensorflow_probability/python -mindepth 1 -maxdepth 1 ! -name internal ! -name __init__.py ! -name version.py -exec rm -rf {} +
rm -rf tensorflow_probability/substrates/numpy tensorflow_probability/examples
rm -rf matplotlib/tests matplotlib/mpl-data/sample_data mpl_toolkits/*/tests matplotlib/mpl-data/fonts/afm matplotlib/mpl-data/fonts/pdfcorefonts
find . -name '*_test.py' -path './*' \( -path './rlax/*' -o -path './distrax/*' -o -path './chex/*' -o -path './optax/*' \
  -o -path './tensorflow_probability/*' -o -path './orbax/*' \) -delete
rm -rf ./*.data
cd - >/dev/null
rm -rf "$out" "$out.tar.xz"; mkdir -p "$(dirname "$out")"; mv "$work/site" "$out"
tar -C "$out" --sort=name --owner=0 --group=0 -cf - . | xz -T1 -6 >"$out.tar.xz"
du -sh "$out" "$out.tar.xz"
