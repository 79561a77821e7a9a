# nix-build -E '(import <nixpkgs> { }).callPackage ./dist/nix { }'
{
  lib,
  stdenv,
  inih,
  liburing,
  libsodium,
  meson,
  ninja,
  openssl,
  pkg-config,
  python3,
  # Sources that are there before anything is built: the version is read out of them.
  src ? lib.cleanSource ../..,
}:

let
  lines = lib.splitString "\n" (builtins.readFile "${src}/meson.build");
  versionOf =
    line:
    let
      found = builtins.match "  version: '([^']+)'," line;
    in
    if found == null then [ ] else found;
in
stdenv.mkDerivation {
  pname = "rathole-uring";
  version = lib.head (lib.concatMap versionOf lines);
  inherit src;

  strictDeps = true;
  nativeBuildInputs = [
    meson
    ninja
    pkg-config
    python3
  ];
  buildInputs = [
    inih
    liburing
    libsodium
    openssl
  ];

  # The build runs some of them, and there is no /usr/bin/env.
  postPatch = "patchShebangs scripts";

  # The default is "plain", which has no optimisation of its own.
  mesonBuildType = "release";
  mesonFlags = [
    # They need Criterion, and io_uring in the sandbox of the build.
    (lib.mesonEnable "tests" false)
    (lib.mesonBool "fuzz" false)
    (lib.mesonEnable "openssl" true)
    (lib.mesonEnable "usdt" false)
  ];

  # OpenSSL is loaded by name at run time. This comes after fixup, which drops the paths of libraries that are
  # not linked.
  postFixup = ''
    patchelf --add-rpath ${lib.makeLibraryPath [ openssl ]} $out/bin/rathole-uring
  '';

  meta = {
    description = "Reverse tunnel on io_uring, wire compatible with rathole";
    license = lib.licenses.asl20;
    mainProgram = "rathole-uring";
    # meson.build refuses 32-bit machines; no other 64-bit one has been tried.
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
