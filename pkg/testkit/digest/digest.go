// Package digest tells in tests whether files have the same bytes.
package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"testing"
)

// File is the sha256 of a file, hex.
func File(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
