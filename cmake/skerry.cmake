# What nearly every source file includes is compiled once, by `base`, and with gtest by its test: a fifth of the
# time of a build otherwise. A source file still includes what it uses.
set(SKERRY_PRECOMPILED
    <fmt/format.h> <algorithm> <array> <atomic> <cerrno> <cstdlib> <cstring> <deque> <expected> <filesystem>
    <functional> <map> <memory> <mutex> <optional> <set> <span> <string> <string_view> <thread> <variant> <vector>)

# skerry_layer("folder:dep dep ..."): the library skerry_<folder> from src/<folder>/*.cpp and, from its
# *_test.cpp, the test program <folder>_test. Dependencies and tests follow from the row alone, so a
# new source file needs no edit here. A folder may add its own needs in src/<folder>/extra.cmake, where
# ${lib} and ${test} name its targets.
function(skerry_layer row)
  string(REGEX MATCH "^([^:]*):(.*)$" _ "${row}")
  set(folder ${CMAKE_MATCH_1})
  separate_arguments(deps UNIX_COMMAND "${CMAKE_MATCH_2}")
  string(REPLACE "/" "_" id ${folder})
  set(dir ${CMAKE_SOURCE_DIR}/src/${folder})
  set(lib skerry_${id})
  set(test ${id}_test)

  file(GLOB sources CONFIGURE_DEPENDS ${dir}/*.cpp)
  file(GLOB tests CONFIGURE_DEPENDS ${dir}/*_test.cpp)
  list(REMOVE_ITEM sources ${dir}/main.cpp ${tests})

  if(sources)
    add_library(${lib} STATIC ${sources})
    set(kind PUBLIC)
  else()
    add_library(${lib} INTERFACE)
    set(kind INTERFACE)
  endif()
  target_include_directories(${lib} ${kind} ${CMAKE_SOURCE_DIR}/src)
  foreach(dep IN LISTS deps)
    string(REPLACE "/" "_" dep ${dep})
    target_link_libraries(${lib} ${kind} skerry_${dep})
  endforeach()
  if(folder STREQUAL "base")
    target_link_libraries(${lib} ${kind} fmt::fmt spdlog::spdlog Threads::Threads)
    target_precompile_headers(${lib} PRIVATE ${SKERRY_PRECOMPILED})
  elseif(sources)
    target_precompile_headers(${lib} REUSE_FROM skerry_base)
  endif()

  if(tests)
    add_executable(${test} ${tests})
    set_target_properties(${test} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    target_link_libraries(${test} PRIVATE ${lib} GTest::gmock GTest::gtest GTest::gtest_main)
    if(folder STREQUAL "base")
      target_precompile_headers(${test} PRIVATE ${SKERRY_PRECOMPILED} <gtest/gtest.h>)
    else()
      target_precompile_headers(${test} REUSE_FROM base_test)
    endif()
    gtest_discover_tests(${test} TEST_PREFIX "${folder}." DISCOVERY_MODE PRE_TEST
                         PROPERTIES TIMEOUT 600)
  endif()
  if(EXISTS ${dir}/extra.cmake)
    include(${dir}/extra.cmake)
  endif()
endfunction()

# skerry_program(name folder): bin/<name> from src/<folder>/main.cpp.
function(skerry_program name folder)
  if(EXISTS ${CMAKE_SOURCE_DIR}/src/${folder}/main.cpp)
    add_executable(${name} ${CMAKE_SOURCE_DIR}/src/${folder}/main.cpp)
    target_link_libraries(${name} PRIVATE skerry_${folder})
    target_precompile_headers(${name} REUSE_FROM skerry_base)
  endif()
endfunction()
