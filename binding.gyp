# A shim: node-gyp and prebuildify end up in the CMake build. No sources and no flags here (test/architecture.test.ts).
{
  "targets": [
    {
      "target_name": "roots",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/gyp-cmake/Release/roots.node"],
          "action": ["node", "scripts/build_native.mjs", "--out=build/gyp-cmake", "--arch=<(target_arch)"]
        }
      ],
      "copies": [{ "destination": "<(PRODUCT_DIR)", "files": ["build/gyp-cmake/Release/roots.node"] }]
    }
  ]
}
