#!/bin/bash -eu
# Builds the targets of tests/fuzz into $OUT, each with its corpus and, if there is one, its dictionary.
# OSS-Fuzz sets $SRC, $WORK, $OUT, $CC, $CXX, $CFLAGS, $CXXFLAGS and $LIB_FUZZING_ENGINE; $CFLAGS has the
# sanitizers. The engine is C++, so its library is linked too. The machine that runs the targets has no
# packages: libsodium, liburing and inih are linked statically; OpenSSL is looked for at run time and does
# not have to be there.
cd "$SRC/rathole-uring"
build=${WORK:-$SRC}/build

case $LIB_FUZZING_ENGINE in
    -fsanitize=*) engine_libraries="" ;;
    *) engine_libraries="-lc++ -lm" ;;
esac
meson setup "$build" -Dlibfuzzer=true -Dfuzz_engine="$LIB_FUZZING_ENGINE" -Dmode=developer -Dtests=disabled \
    -Dusdt=disabled -Dbuildtype=plain -Db_lundef=false -Db_pie=false -Dprefer_static=true \
    -Dc_link_args="${CXXFLAGS:-} $engine_libraries"
ninja -C "$build" fuzz_targets

for target in "$build"/tests/fuzz/fuzz_*; do
    if [ ! -f "$target" ] || [ ! -x "$target" ]; then
        continue
    fi
    name=$(basename "$target")
    cp "$target" "$OUT/"
    zip -q -j -r "$OUT/${name}_seed_corpus.zip" "tests/fuzz/corpus/${name#fuzz_}"
    dictionary=tests/fuzz/dict/${name#fuzz_}.dict
    [ ! -f "$dictionary" ] || cp "$dictionary" "$OUT/$name.dict"
    printf '[libfuzzer]\ntimeout = 25\nrss_limit_mb = 2048\n' >"$OUT/$name.options"
done
