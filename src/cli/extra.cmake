target_compile_definitions(${lib} PRIVATE SKERRY_VERSION="${PROJECT_VERSION}")
target_link_libraries(${lib} PUBLIC nlohmann_json::nlohmann_json)
