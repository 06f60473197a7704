target_compile_definitions(${lib} PRIVATE SKERRY_VERSION="${PROJECT_VERSION}")
