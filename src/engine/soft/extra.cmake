# What runs code on the fixture's vCPUs (soft_fixture.hpp) runs it on the interpreter as well.
gtest_discover_tests(${test} TEST_PREFIX "${folder}.interpreter." DISCOVERY_MODE PRE_TEST
                     TEST_LIST ${test}_interpreter
                     PROPERTIES TIMEOUT 600 ENVIRONMENT SKERRY_TEST_ENGINE=soft,interpreter)
