package packer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/build/steps"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Bounds of what a template brings, in bytes.
const (
	maxTemplate = 1 << 20
	maxUpload   = 1 << 30
)

// makeTemplate writes packer's template: our builder, our provisioners around those of the repository's template.
func (m *making) makeTemplate(variables map[string]string, others []map[string]any) error {
	provisioners := []any{
		map[string]any{"type": "file", "source": inPen("steps.tar"), "destination": guestSteps + ".tar"},
		map[string]any{"type": "file", "source": inPen("prepare.sh"), "destination": "/run/kiln-prepare"},
		map[string]any{"type": "shell", "inline": m.stepLines()},
	}
	for _, p := range others {
		provisioners = append(provisioners, p)
	}
	provisioners = append(provisioners,
		map[string]any{"type": "file", "source": inPen("clean.sh"), "destination": "/run/kiln-clean"},
		map[string]any{"type": "shell", "inline": []string{"echo " + m.token + " phase " + stepClean, "sh /run/kiln-clean"}})
	document := map[string]any{"builders": []any{m.qemu()}, "provisioners": provisioners}
	if len(variables) > 0 {
		document["variables"] = variables
	}
	settings := m.recipe.Builder.Settings
	if settings == nil {
		settings = map[string]string{}
	}
	for name, value := range map[string]any{"template.json": document, "variables.json": settings} {
		raw, err := json.MarshalIndent(value, "", " ")
		if err == nil {
			err = os.WriteFile(m.at(name), raw, 0o600)
		}
		if err != nil {
			return errs.Wrap(err, errs.Internal, CodeHost, "packer's template cannot be written.")
		}
	}
	for name, text := range map[string]string{"prepare.sh": m.preparation(), "clean.sh": m.cleaning()} {
		if err := os.WriteFile(m.at(name), []byte(text), 0o600); err != nil {
			return errs.Wrap(err, errs.Internal, CodeHost, "packer's scripts cannot be written.")
		}
	}
	return nil
}

// stepLines is one provisioner for all steps: each by itself would cost several rounds through SSH.
func (m *making) stepLines() []string {
	lines := []string{"sh /run/kiln-prepare"}
	for i := range m.recipe.Plan {
		lines = append(lines, "sh "+guestSteps+"/"+steps.Runner+" "+steps.Number(i))
	}
	if m.recipe.Builder.Template != "" {
		lines = append(lines, "echo "+m.token+" phase "+stepOthers)
	}
	return lines
}

// qemu is packer's builder. https://www.packer.io/docs/builders/qemu as of version 1.6.6.
func (m *making) qemu() map[string]any {
	cfg := m.builder.cfg
	drive := func(file, options string) []string {
		return []string{"-drive", "file=" + inPen(file) + ",if=virtio," + options}
	}
	args := [][]string{
		// Given here, these replace packer's own: the disk needs no flushes before it is whole, and the seeds are disks,
		// because not every kernel has a driver for CD-ROMs.
		drive("out/disk", "format=qcow2,cache=unsafe,discard=unmap,detect-zeroes=unmap"),
		drive("nocloud.iso", "format=raw,readonly=on"), drive("configdrive.iso", "format=raw,readonly=on"),
		{"-display", "none"}, {"-serial", "file:" + inPen("console.log")},
		{"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"},
	}
	if m.recipe.Disk.Firmware == "uefi" {
		args = append(args, []string{"-bios", "/usr/share/ovmf/OVMF.fd"})
	}
	b := map[string]any{
		"type": "qemu", "name": "qemu", "disk_image": true, "iso_url": inPen("base.img"), "iso_checksum": "none",
		"output_directory": inPen("out"), "vm_name": "disk", "format": "qcow2", "skip_compaction": true,
		"accelerator": m.builder.accelerator(), "cpus": cfg.CPUs, "memory": cfg.MemoryMiB, "net_device": "virtio-net",
		"headless": true, "disable_vnc": true, "boot_wait": "1s", "qemuargs": args,
		"communicator": "ssh", "ssh_username": "root", "ssh_private_key_file": inPen("key"), "ssh_timeout": cfg.BootTime.String(),
		"ssh_handshake_attempts": 10000, "shutdown_timeout": "5m",
		// The rest of systemd's way down would write its own state again: force leaves it out, and unmounts all the same.
		"shutdown_command": "sh " + guestFinish + " && systemctl poweroff --force",
	}
	const mib = 1 << 20
	if want := int64(m.recipe.Disk.Size); want > m.req.Base.Facts.VirtualSize {
		b["disk_size"] = fmt.Sprintf("%dM", (want+mib-1)/mib)
	} else {
		b["skip_resize_disk"] = true
	}
	return b
}

// repositoryTemplate reads the variables and provisioners of the recipe's own template.
func (m *making) repositoryTemplate() (variables map[string]string, provisioners []map[string]any, err error) {
	name := m.recipe.Builder.Template
	if name == "" {
		return nil, nil, nil
	}
	fault := func(field, format string, args ...any) error {
		return errs.New(errs.Invalid, CodeTemplate, format, args...).At(errs.Where{File: name, Field: field})
	}
	raw, err := steps.Read(m.req.Files, name, maxTemplate)
	if err != nil {
		return nil, nil, errs.Wrap(err, errs.Invalid, CodeTemplate, "The packer template cannot be read.").At(errs.Where{File: m.recipe.Path, Field: "builder.template"})
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil {
		return nil, nil, fault("", "The packer template is not JSON: %s", err)
	}
	for _, part := range slices.Sorted(maps.Keys(parts)) {
		switch part {
		case "variables":
			err = json.Unmarshal(parts[part], &variables)
		case "provisioners":
			err = json.Unmarshal(parts[part], &provisioners)
		case "description", "min_packer_version", "_comment":
		default:
			return nil, nil, fault(part, "A template for Kiln has variables and provisioners only: what it stands on and what becomes of it is in the recipe.")
		}
		if err != nil {
			return nil, nil, fault(part, "The part cannot be read: %s", err)
		}
	}
	for key := range m.recipe.Builder.Settings {
		if _, known := variables[key]; !known {
			return nil, nil, errs.New(errs.Invalid, CodeTemplate, "The template has no variable %q.", key).At(errs.Where{File: m.recipe.Path, Field: "builder.settings." + key})
		}
	}
	for i, p := range provisioners {
		if err := m.admit(p); err != nil {
			return nil, nil, fault(fmt.Sprintf("provisioners[%d]", i), "%s", err)
		}
	}
	return variables, provisioners, nil
}

var (
	errKind      = errors.New("only provisioners of the types shell and file are allowed: they run in the guest, others run on the worker")
	errDirection = errors.New("a file provisioner may upload only: what it brought back would stay on the worker")
	errGenerated = errors.New("the field generated is not allowed")
)

// admit lets through what runs in the guest, and turns its paths into those of copies of the repository's files.
func (m *making) admit(p map[string]any) error {
	switch p["type"] {
	case "shell":
		for _, field := range []string{"script", "scripts"} {
			if err := m.localise(p, field); err != nil {
				return err
			}
		}
	case "file":
		if d, given := p["direction"]; given && d != "upload" {
			return errDirection
		}
		if _, given := p["generated"]; given {
			return errGenerated
		}
		for _, field := range []string{"source", "sources"} {
			if err := m.localise(p, field); err != nil {
				return err
			}
		}
	default:
		return errKind
	}
	return nil
}

// localise copies the files that a field names out of the repository and names the copies.
func (m *making) localise(p map[string]any, field string) error {
	switch v := p[field].(type) {
	case nil:
		return nil
	case string:
		at, err := m.fromRepository(v)
		p[field] = at
		return err
	case []any:
		for i, one := range v {
			name, ok := one.(string)
			if !ok {
				return fmt.Errorf("%s is not a list of file names", field)
			}
			at, err := m.fromRepository(name)
			if err != nil {
				return err
			}
			v[i] = at
		}
		return nil
	}
	return fmt.Errorf("%s is not a file name", field)
}

// fromRepository copies a file or a folder of the repository and gives its path in the pen. packer would read any
// file of the worker, so names are plain ones below the repository's root, and no template.
func (m *making) fromRepository(name string) (string, error) {
	clean := path.Clean(name)
	if !fs.ValidPath(clean) || clean == "." || strings.Contains(name, "{{") {
		return "", fmt.Errorf("%q is not a plain path below the repository's root", name)
	}
	err := fs.WalkDir(m.files(), clean, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := m.at(filepath.Join("repository", at))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return m.copyOut(at, to)
	})
	if err != nil {
		return "", fmt.Errorf("%s cannot be read from the repository: %w", name, err)
	}
	in := inPen("repository/" + clean)
	if strings.HasSuffix(name, "/") { // packer uploads the folder's content then, not the folder
		in += "/"
	}
	return in, nil
}

func (m *making) files() fs.FS {
	if m.req.Files == nil {
		return noFiles{}
	}
	return m.req.Files
}

type noFiles struct{}

// Open implements fs.FS: a request without a repository has no files.
func (noFiles) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (m *making) copyOut(name, to string) error {
	from, err := steps.Open(m.files(), name)
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // only read
	info, err := from.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, info.Mode().Perm()&0o755|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(from, maxUpload))
	return errors.Join(err, out.Close())
}
