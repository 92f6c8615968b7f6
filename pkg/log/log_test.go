package log_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/log"
)

// The layout is that of oslo.log, and one entry is one line whatever a user sent.
func TestOsloLines(t *testing.T) {
	var out bytes.Buffer
	l := log.New(log.Config{Program: "kiln-api", Output: &out})
	l.WithField(log.RequestID, "req-1").WithField(log.UserID, "u\nx").WithField("job", "a b").WithError(errors.New("two\nlines")).Warning("first\nsecond")
	l.Debug("not shown")
	l.Info("plain")
	lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %q", len(lines), out.String())
	}
	for i, pattern := range []string{
		`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \d+ WARNING kiln-api \[req-1 u\\nx -\] first\\nsecond error="two\\nlines" job="a b"$`,
		`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \d+ INFO kiln-api \[- - -\] plain$`,
	} {
		if !regexp.MustCompile(pattern).MatchString(lines[i]) {
			t.Errorf("line %q does not match %s", lines[i], pattern)
		}
	}
}

func TestJSONAndDebug(t *testing.T) {
	var out bytes.Buffer
	l := log.New(log.Config{Program: "kiln-api", Output: &out, JSON: true, Debug: true})
	l.WithField(log.RequestID, "req-1").Debug("shown")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "shown" || line[log.RequestID] != "req-1" || line["level"] != "debug" {
		t.Errorf("line %s, error %v", out.String(), err)
	}
}
