package advisory

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxTracker bounds the tracker's file; Debian's has about 70 MB.
const maxTracker = 1 << 30

// trackerCVE is one vulnerability of one source package
// (https://security-tracker.debian.org/tracker/data/json).
type trackerCVE struct {
	Releases map[string]struct {
		Status  string `json:"status"` // open, resolved, undetermined
		Fixed   string `json:"fixed_version"`
		Urgency string `json:"urgency"`
	} `json:"releases"`
}

// readTracker reads package by package, so that one of them is in memory at a time.
func (f *Fixes) readTracker(name string, w Wanted) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	d := json.NewDecoder(&atMost{file, maxTracker})
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("it is not a JSON object: %w", orEOF(err))
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		pkg, _ := t.(string)
		var all json.RawMessage
		if err := d.Decode(&all); err != nil {
			return fmt.Errorf("it breaks off in %s: %w", pkg, orEOF(err))
		}
		if w.Packages != nil && !w.Packages[pkg] {
			continue
		}
		if err := f.trackerPackage(name, pkg, all, w); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("it breaks off: %w", orEOF(err))
	}
	return nil
}

func (f *Fixes) trackerPackage(name, pkg string, data json.RawMessage, w Wanted) error {
	var cves map[string]json.RawMessage
	if err := json.Unmarshal(data, &cves); err != nil {
		f.problem(name, pkg, err)
		return nil
	}
	for id, raw := range cves {
		if CheckCVE(id) != nil { // TEMP-… names come and go
			continue
		}
		var c trackerCVE
		if err := json.Unmarshal(raw, &c); err != nil {
			f.problem(name, pkg+"."+id, err)
			continue
		}
		for release, r := range c.Releases {
			if !w.wants("tracker:"+release, pkg) {
				continue
			}
			x := Fix{CVEs: []string{id}, Urgency: Urgency(r.Urgency), Suite: SuiteTracker}
			if r.Status == "resolved" && r.Fixed != "0" { // 0: this release never had the fault
				x.Fixed = r.Fixed
			}
			if err := f.add("tracker:"+release, pkg, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// atMost fails behind n bytes; an io.LimitReader would pass for a file that breaks off.
type atMost struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (a *atMost) Read(b []byte) (int, error) {
	n, err := a.r.Read(b)
	if a.n -= int64(n); a.n < 0 {
		return 0, errTooLarge
	}
	return n, err
}

func orEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
