package output

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// maxLeftOut is how many device nodes and sockets of a tree are left out by name.
const maxLeftOut = 256

// survey is one look through the tree before mkfs.erofs, which reads it by itself: what it must not take.
type survey struct {
	newest  int64
	leftOut []string
	room    int64
}

func (s *survey) visit(e *entry) error {
	s.newest = max(s.newest, e.stat.Mtim.Sec)
	switch e.kind() {
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFSOCK:
		if s.leftOut = append(s.leftOut, e.path); len(s.leftOut) > maxLeftOut {
			return errs.New(errs.Invalid, CodeTree, "The tree has more than %d device nodes and sockets outside of /dev.", maxLeftOut)
		}
	case unix.S_IFREG:
		if s.room -= e.stat.Size; s.room < 0 {
			return errs.New(errs.Invalid, CodeTree, "The files of the tree promise more bytes than its disk could hold, %.200q for one: it is sparse.", e.path)
		}
	}
	buf := make([]byte, 4<<10)
	n, err := unix.Llistxattr(e.at(), buf)
	if err == nil && strings.Contains("\x00"+string(buf[:n]), "\x00trusted.") {
		return errs.New(errs.Invalid, CodeTree, "%.200q has attributes (trusted.*) that only a kernel may set.", e.path)
	}
	return nil
}

// systemTree writes the tree as EROFS: read-only by its format, compressed, and mounted by any kernel since 5.4. The same disk gives
// the same bytes: every file has the time of the youngest, and the UUID comes from the family.
func systemTree(ctx context.Context, j *job) error {
	tmp := filepath.Join(j.work, "system.erofs")
	err := j.withTree(ctx, func(s *disk.Session, inside, host string) error {
		look := &survey{room: 2 * j.size}
		walk := walker{limits: j.limits, visit: look.visit}
		if err := walk.walk(ctx, host); err != nil {
			return err
		}
		id := uuid.NewSHA1(uuid.NameSpaceURL, []byte("kiln:system/"+j.family()))
		args := []string{"--quiet", "-zlz4", "-T" + strconv.FormatInt(max(0, look.newest), 10), "-U" + id.String(), "--exclude-regex=" + leftOut}
		for _, path := range look.leftOut {
			args = append(args, "--exclude-path="+path)
		}
		cmd := exec.CommandContext(ctx, "mkfs.erofs", append(args, tmp, inside)...)
		if err := tool(ctx, cmd, func(c *exec.Cmd) error { return s.Start(ctx, c) }); err != nil {
			return err
		}
		fmt.Fprintf(j.log, "system tree: %d files, %d device nodes and sockets left out\n", walk.files-len(look.leftOut), len(look.leftOut)) //nolint:errcheck // a log
		return nil
	})
	if err != nil {
		return err
	}
	if err := tool(ctx, exec.CommandContext(ctx, "fsck.erofs", "--extract", tmp), disk.StartTied); err != nil {
		return errs.Wrap(err, errs.KindOf(err), CodeConvert, "The system tree does not pass its check.")
	}
	return j.publish(tmp)
}
