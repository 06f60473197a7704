find_package(ZLIB REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(zstd REQUIRED IMPORTED_TARGET libzstd)
target_link_libraries(${lib} PRIVATE ZLIB::ZLIB PkgConfig::zstd)
