#!/usr/bin/env python3
"""Counts the cases of a JUnit report: prints 'PASSED FAILED SKIPPED', then the names of the failed ones, one a line."""
import sys
import xml.etree.ElementTree as ElementTree

counts = {"passed": 0, "failed": 0, "skipped": 0}
names = []
for suite in ElementTree.parse(sys.argv[1]).getroot().iter("testsuite"):
    for case in suite.iter("testcase"):
        outcome = "passed"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
            names.append(case.get("name").rpartition(":")[2] if case.get("classname") == suite.get("name")
                         else f"{suite.get('name')}: {case.get('name')}")
        elif case.find("skipped") is not None:
            outcome = "skipped"
        counts[outcome] += 1
print(*counts.values())
print("\n".join(names))
