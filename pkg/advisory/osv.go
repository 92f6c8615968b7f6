package advisory

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Bounds of OSV files.
const (
	maxRecord  = 32 << 20 // bytes of one record
	maxRecords = 2_000_000
)

// osvRecord is what Kiln uses of one record (https://ossf.github.io/osv-schema/).
type osvRecord struct {
	ID        string     `json:"id"`
	Withdrawn string     `json:"withdrawn"`
	Aliases   []string   `json:"aliases"`
	Upstream  []string   `json:"upstream"`
	Related   []string   `json:"related"`
	Severity  []osvScore `json:"severity"`
	Affected  []struct {
		Package struct {
			Ecosystem string `json:"ecosystem"`
			Name      string `json:"name"`
		} `json:"package"`
		Severity []osvScore `json:"severity"`
		Ranges   []struct {
			Type   string `json:"type"`
			Events []struct {
				Introduced string `json:"introduced"`
				Fixed      string `json:"fixed"`
			} `json:"events"`
		} `json:"ranges"`
		Ecosystem osvWords `json:"ecosystem_specific"`
		Database  osvWords `json:"database_specific"`
	} `json:"affected"`
	Database osvWords `json:"database_specific"`
}

type osvScore struct {
	Type  string `json:"type"`
	Score string `json:"score"`
}

// osvWords are the words that Debian (urgency), GitHub (severity) and Ubuntu (priority) add. They may be anything.
type osvWords struct {
	Severity any `json:"severity"`
	Urgency  any `json:"urgency"`
	Priority any `json:"ubuntu_priority"`
}

func (w osvWords) urgency() string {
	worst := ""
	for _, v := range []any{w.Severity, w.Urgency, w.Priority} {
		if word, ok := v.(string); ok {
			worst = Worse(worst, Urgency(word))
		}
	}
	return worst
}

func (r osvRecord) cves() []string {
	var out []string
	seen := map[string]bool{}
	take := func(ids ...string) {
		for _, id := range ids {
			// Ubuntu and Debian put the distribution before the number: UBUNTU-CVE-2026-1234.
			if i := strings.Index(id, "CVE-"); i > 0 {
				id = id[i:]
			}
			if CheckCVE(id) == nil && !seen[id] {
				out, seen[id] = append(out, id), true
			}
		}
	}
	take(r.ID)
	take(r.Aliases...)
	take(r.Upstream...)
	if len(out) == 0 {
		take(r.Related...)
	}
	return out
}

// scores maps CVSS vectors and words; a record whose scores Kiln cannot read says nothing.
func scores(all []osvScore) string {
	worst := ""
	for _, s := range all {
		if s.Type == "Ubuntu" {
			worst = Worse(worst, Urgency(s.Score))
		} else if score, ok := CVSS(s.Score); ok {
			worst = Worse(worst, OfScore(score))
		}
	}
	return worst
}

// readOSV reads a record, a zip of records (as osv.dev publishes each ecosystem) or a folder of both.
func (f *Fixes) readOSV(name string, w Wanted) error {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.Type().IsRegular() {
				return f.osvFile(path, w)
			}
			return nil
		})
	}
	return f.osvFile(name, w)
}

func (f *Fixes) osvFile(path string, w Wanted) error {
	switch filepath.Ext(path) {
	case ".zip":
		return f.osvZip(path, w)
	case ".json":
		file, err := os.Open(path)
		if err != nil {
			f.problem(path, "", err)
			return nil
		}
		defer file.Close() //nolint:errcheck // only read
		return f.osvEntry(path, "", file, w)
	}
	return nil
}

func (f *Fixes) osvZip(path string, w Wanted) error {
	z, err := zip.OpenReader(path)
	if err != nil {
		f.problem(path, "", err)
		return nil
	}
	defer z.Close() //nolint:errcheck // only read
	if len(z.File) > maxRecords {
		f.problem(path, "", errTooLarge)
		return nil
	}
	for _, entry := range z.File {
		if filepath.Ext(entry.Name) != ".json" {
			continue
		}
		r, err := entry.Open()
		if err != nil {
			f.problem(path, entry.Name, err)
			continue
		}
		err = f.osvEntry(path, entry.Name, r, w)
		r.Close() //nolint:errcheck // only read
		if err != nil {
			return err
		}
	}
	return nil
}

// osvEntry takes one record. Only more fixes than Kiln keeps is an error: what is wrong with the record is a problem.
func (f *Fixes) osvEntry(file, entry string, r io.Reader, w Wanted) error {
	data, err := io.ReadAll(&atMost{r, maxRecord})
	var rec osvRecord
	if err == nil {
		err = json.Unmarshal(data, &rec)
	}
	if err == nil && rec.ID == "" {
		err = fmt.Errorf("it is no OSV record: it has no id")
	}
	if err != nil {
		f.problem(file, entry, err)
		return nil
	}
	if rec.Withdrawn != "" {
		return nil
	}
	cves := rec.cves()
	whole := Worse(scores(rec.Severity), rec.Database.urgency())
	for _, a := range rec.Affected {
		release := ecosystem(a.Package.Ecosystem)
		if release == "" || !w.wants(release, a.Package.Name) {
			continue
		}
		urgency := Worse(scores(a.Severity), Worse(a.Ecosystem.urgency(), a.Database.urgency()))
		if urgency == "" { // what is said of the release goes before what is said of the fault
			urgency = whole
		}
		for _, rng := range a.Ranges {
			if rng.Type != "ECOSYSTEM" {
				continue
			}
			introduced := ""
			for _, e := range rng.Events {
				if e.Introduced != "" {
					introduced = e.Introduced
				}
				if e.Fixed == "" {
					continue
				}
				if err := f.add(release, a.Package.Name, Fix{CVEs: cves, Introduced: introduced, Fixed: e.Fixed, Urgency: urgency, Suite: SuiteOSV}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// folderStamp changes when a file below the folder does.
func folderStamp(dir string) string {
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintf(sum, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano()) //nolint:errcheck // a hash takes all
		}
		return err
	})
	if err != nil {
		fmt.Fprintln(sum, err) //nolint:errcheck // a hash takes all
	}
	return hex.EncodeToString(sum.Sum(nil))
}
