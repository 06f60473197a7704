find_package(PkgConfig REQUIRED)
pkg_check_modules(SLIRP REQUIRED IMPORTED_TARGET slirp)
target_link_libraries(${lib} PRIVATE PkgConfig::SLIRP)
target_link_libraries(${lib} PRIVATE nlohmann_json::nlohmann_json)
