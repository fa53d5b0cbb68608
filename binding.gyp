{
  # The portable build: CPU only, through node-gyp. native/cpu/*.cc is compiled once for each instruction set; the best one
  # is chosen at run time. CMakeLists.txt builds the same sources (and CUDA).
  "target_defaults": {
    "include_dirs": ["<!@(node -p \"require('node-addon-api').include_dir\")"],
    "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_CPP_EXCEPTIONS", "NODE_ADDON_API_REQUIRE_BUFFER_EXT_OVERLOADS"],
    "cflags!": ["-fno-exceptions"],
    "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17"],
    "cflags": ["-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-ffp-contract=off"],
    "cflags_cc": ["-std=c++20"],
    "xcode_settings": {
      "GCC_ENABLE_CPP_EXCEPTIONS": "YES", "CLANG_CXX_LANGUAGE_STANDARD": "c++20", "MACOSX_DEPLOYMENT_TARGET": "12.0",
      "OTHER_CFLAGS": ["-O3", "-ffp-contract=off"]
    },
    "msvs_settings": { "VCCLCompilerTool": { "ExceptionHandling": 1, "AdditionalOptions": ["/std:c++20", "/O2"] } },
    "conditions": [["target_arch=='x64'", { "defines": ["VLTUNE_X86"] }]]
  },
  "targets": [
    {
      "target_name": "vltune",
      "sources": ["<!@(node scripts/sources.mjs native/binding native/runtime native/addon.cc)"],
      "dependencies": ["cpu_portable"],
      "ldflags": ["-Wl,-z,nodelete", "-Wl,--exclude-libs,ALL"],
      "conditions": [["target_arch=='x64'", { "dependencies": ["cpu_avx2", "cpu_avx512", "cpu_amx"] }]]
    },
    { "target_name": "cpu_portable", "type": "static_library", "sources": ["<!@(node scripts/sources.mjs native/cpu)"], "defines": ["VLTUNE_ISA=portable"] }
  ],
  "conditions": [
    ["target_arch=='x64'", {
      "targets": [
        {
          "target_name": "cpu_avx2", "type": "static_library", "sources": ["<!@(node scripts/sources.mjs native/cpu)"], "defines": ["VLTUNE_ISA=avx2"],
          "cflags": ["-mavx2", "-mfma", "-mf16c"],
          "xcode_settings": { "OTHER_CFLAGS": ["-mavx2", "-mfma", "-mf16c"] },
          "msvs_settings": { "VCCLCompilerTool": { "EnableEnhancedInstructionSet": "5" } }
        },
        {
          "target_name": "cpu_avx512", "type": "static_library", "sources": ["<!@(node scripts/sources.mjs native/cpu)"], "defines": ["VLTUNE_ISA=avx512"],
          "cflags": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c", "-mprefer-vector-width=512", "-Wno-maybe-uninitialized"],
          "xcode_settings": { "OTHER_CFLAGS": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"] },
          "msvs_settings": { "VCCLCompilerTool": { "AdditionalOptions": ["/arch:AVX512"] } }
        },
        {
          "target_name": "cpu_amx", "type": "static_library", "sources": ["<!@(node scripts/sources.mjs native/cpu/amx)"],
          "cflags": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mavx512vnni", "-mamx-tile", "-mamx-bf16", "-mavx2", "-mfma", "-mf16c"],
          "xcode_settings": { "OTHER_CFLAGS": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mfma"] }
        }
      ]
    }]
  ]
}
