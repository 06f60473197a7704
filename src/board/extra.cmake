# A false alarm of g++ 12 about vectors assigned from one-byte lists.
set_source_files_properties(${dir}/aml.cpp PROPERTIES COMPILE_OPTIONS "$<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds;-Wno-stringop-overread;-Wno-stringop-overflow>")
