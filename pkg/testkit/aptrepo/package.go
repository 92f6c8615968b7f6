package aptrepo

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Package is a binary package.
type Package struct {
	Name, Version string
	Architecture  string            // default amd64
	Fields        string            // further lines of the control file, each with its newline
	Files         map[string]string // text by path ("etc/x"); a folder ends in "/"
	Modes         map[string]int64  // of files that are not 0644, with setuid bits as chmod(2) has them
	Conffiles     []string          // "/etc/x"
	Scripts       map[string]string // preinst, postinst, prerm, postrm, config, templates, triggers: their text
}

func (p Package) architecture() string {
	if p.Architecture == "" {
		return "amd64"
	}
	return p.Architecture
}

func (p Package) control() string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: a <a@example.org>\n%sDescription: test\n text\n", p.Name, p.Version, p.architecture(), p.Fields)
}

// Build makes the package file: an ar archive of uncompressed tar files (deb(5)).
func (p Package) Build() ([]byte, error) {
	meta := map[string]string{"control": p.control()}
	modes := map[string]int64{}
	for name, text := range p.Scripts {
		meta[name] = text
		modes[name] = 0o755
	}
	if len(p.Conffiles) > 0 {
		meta["conffiles"] = strings.Join(p.Conffiles, "\n") + "\n"
	}
	control, err := archive(meta, modes)
	if err != nil {
		return nil, err
	}
	data, err := archive(p.Files, p.Modes)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar", control}, {"data.tar", data}} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, made.Unix(), 0, 0, "100644", len(m.data))
		b.Write(m.data)
		if len(m.data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes(), nil
}

// made is the time of all files: packages of the same text are the same bytes.
var made = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// archive writes the files with the folders above them.
func archive(files map[string]string, modes map[string]int64) ([]byte, error) {
	all := map[string]string{"./": ""}
	for name, text := range files {
		all["./"+name] = text
		for dir := path.Dir(strings.TrimSuffix(name, "/")); dir != "."; dir = path.Dir(dir) {
			all["./"+dir+"/"] = ""
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(all[name])), ModTime: made, Uname: "root", Gname: "root", Format: tar.FormatGNU, Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Mode, h.Typeflag = 0o755, tar.TypeDir
		}
		if mode, ok := modes[strings.TrimPrefix(name, "./")]; ok {
			h.Mode = mode
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write([]byte(all[name])); err != nil {
			return nil, err
		}
	}
	err := w.Close() // writes the end
	return b.Bytes(), err
}
