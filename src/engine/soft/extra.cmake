# What runs code on the fixture's vCPUs (soft_fixture.hpp) runs it on the interpreter as well.
gtest_discover_tests(${test} TEST_PREFIX "${folder}.interpreter." DISCOVERY_MODE PRE_TEST
                     TEST_LIST ${test}_interpreter
                     PROPERTIES TIMEOUT 600 ENVIRONMENT SKERRY_TEST_ENGINE=soft,interpreter)
# Translated code calls these while the guest's vector registers are the host's. With clang the standard
# library's headers need types that -mgeneral-regs-only forbids; what it does on its own accord it may not.
set(general_registers -mgeneral-regs-only)
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  set(general_registers -mno-implicit-float)
endif()
# Optimized and uninstrumented in every build: nothing may be called that does not keep to this.
list(APPEND general_registers -O2 -fno-sanitize=all)
set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/src/engine/soft/refill.cpp
                            ${CMAKE_CURRENT_SOURCE_DIR}/src/engine/soft/returns.cpp
                            ${CMAKE_CURRENT_SOURCE_DIR}/src/engine/soft/returns_narrow.cpp
                            PROPERTIES COMPILE_OPTIONS "${general_registers}" SKIP_PRECOMPILE_HEADERS ON)
