# Zydis is the oracle of the decoder's tests only.
if(TARGET isa_test)
  if(zydis_FOUND)
    target_link_libraries(isa_test PRIVATE Zydis::Zydis)
    target_compile_definitions(isa_test PRIVATE SKERRY_ZYDIS=1)
  endif()
endif()
