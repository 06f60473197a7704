target_link_libraries(${lib} ${kind} nlohmann_json::nlohmann_json)
