target_link_libraries(${lib} ${kind} nlohmann_json::nlohmann_json)
target_compile_definitions(${lib} PRIVATE SKERRY_VERSION="${PROJECT_VERSION}")
