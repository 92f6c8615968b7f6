package conformance

import "testing"

func testGophercloud(t *testing.T, target Target) {}
