package conformance

import "testing"

func testGlance(t *testing.T, target Target) {}
