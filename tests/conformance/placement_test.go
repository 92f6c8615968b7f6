package conformance

import "testing"

func testPlacement(t *testing.T, target Target) {}
