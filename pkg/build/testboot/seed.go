package testboot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// seedTools make ISO 9660 file systems; each takes mkisofs' options after its own.
var seedTools = [][]string{{"genisoimage"}, {"xorriso", "-as", "genisoimage"}}

func seedTool() ([]string, error) {
	for _, t := range seedTools {
		if path, err := exec.LookPath(t[0]); err == nil {
			return append([]string{path}, t[1:]...), nil
		}
	}
	return nil, errs.New(errs.NotFound, CodeHost, "Neither genisoimage nor xorriso is installed.")
}

// seed is one disk with data for cloud-init, or for a guest.
type seed struct {
	label    string
	files    map[string][]byte
	packages string // a folder that is put beside them under this name; "" for none
}

// seeds are the same data twice, for the two datasources that read a disk: an image asks only those that its own
// configuration names.
func (p Plan) seeds() ([]seed, error) {
	id := uuid.NewString()
	meta, err := json.Marshal(map[string]any{"uuid": id, "name": "kiln-test", "hostname": "kiln-test"})
	if err != nil {
		return nil, err
	}
	script := p.UserData()
	return []seed{
		{label: "CIDATA", files: map[string][]byte{"user-data": script, "meta-data": []byte("instance-id: " + id + "\nlocal-hostname: kiln-test\n")}},
		{label: "config-2", files: map[string][]byte{"openstack/latest/user_data": script, "openstack/latest/meta_data.json": meta}},
	}, nil
}

// write makes the ISO at path.
func (s seed) write(ctx context.Context, tool []string, dir, path string) error {
	for name, data := range s.files {
		at := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(at), 0o700)
		if err == nil {
			err = os.WriteFile(at, data, 0o600)
		}
		if err != nil {
			return errs.Wrap(disk.NoSpace(err, "the worker's disk"), errs.Internal, CodeHost, "The seed's files cannot be written.")
		}
	}
	ctx, stop := context.WithTimeout(ctx, 5*time.Minute)
	defer stop()
	args := append(append([]string{}, tool[1:]...), "-quiet", "-output", path, "-volid", s.label, "-rock")
	if s.packages == "" {
		args = append(args, "-joliet", dir)
	} else { // the names of packages are longer than Joliet allows
		args = append(args, "-graft-points", graft("/", dir), graft("/packages/", s.packages))
	}
	cmd := exec.CommandContext(ctx, tool[0], args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := disk.StartTied(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return errs.Wrap(errors.Join(err, ctx.Err()), errs.Internal, CodeHost, "The seed cannot be made: %.300s", said.String())
	}
	return nil
}
