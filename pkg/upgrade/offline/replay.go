package offline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/record"
)

// Values of upgrade.Report.Record; any other one is the reason why the package manager did the shared changes.
const (
	recorded = "recorded"
	replayed = "replayed"
)

// recordWait bounds how long an image waits for another one of its batch that is being recorded.
const recordWait = 5 * time.Minute

// recordFormat goes into every key: records of another form are not found.
const recordFormat = "3"

// deferredNotes are what the stubs write.
var deferredNotes = []string{"initramfs", "grub"}

// sharing is the shared part of one upgrade.
type sharing struct {
	*run
	tree *record.Tree
	key  string
	lock io.Closer // while this image may be recorded
	why  string    // the records that there are do not fit
}

// replayShare makes the changes that this image shares with others of its batch where a record of them is proven to fit.
// Where there is none, this image is to be recorded. Where neither can be, Report.Record says why.
func (r *run) replayShare(ctx context.Context, root *os.Root) error {
	if len(r.req.Share) == 0 || r.cfg.Caches.Records == nil {
		return nil
	}
	if r.report.Record = r.shareMissing(); r.report.Record != "" {
		return nil
	}
	tree, err := record.OpenTree(root)
	if err != nil {
		return cannotRead(err, ".")
	}
	r.shared = &sharing{run: r, tree: tree, key: r.recordKey()}
	return r.shared.alone(r.shared.find(ctx))
}

// recordShare lets the package manager make the shared changes and records them, if replayShare left that to it.
func (r *run) recordShare(ctx context.Context) error {
	if r.shared == nil || r.shared.lock == nil {
		return nil
	}
	return r.shared.alone(r.shared.record(ctx))
}

// alone takes a failure, before it changed anything, for a reason to go on without what is shared.
func (s *sharing) alone(err error) error {
	if err != nil && !s.touched && !errs.Is(err, errs.Cancelled) && !errs.Is(err, errs.Timeout) {
		s.cfg.Log.WithError(err).Warn("an upgrade is neither recorded nor replayed")
		s.report.Record, err = err.Error(), s.unlock()
	}
	return err
}

func (s *sharing) unlock() error {
	if s.lock == nil {
		return nil
	}
	lock := s.lock
	s.lock = nil
	return lock.Close()
}

// endSharing lets go of the image and of the key.
func (r *run) endSharing() error {
	if r.shared == nil {
		return nil
	}
	return errors.Join(r.shared.unlock(), r.shared.tree.Close())
}

// shareMissing says what of the share is not in the plan of this image; "" where all is.
func (r *run) shareMissing() string {
	for _, ref := range r.req.Share {
		planned := slices.ContainsFunc(r.plan.packages, func(p deb.Package) bool {
			return p.Name == ref.Name && p.Architecture == ref.Architecture && p.Version == ref.To
		})
		from := ""
		if i := slices.IndexFunc(r.before, func(p deb.Package) bool { return p.Name == ref.Name && p.Architecture == ref.Architecture }); i >= 0 {
			from = r.before[i].Version
		}
		if !planned || from != ref.From {
			return fmt.Sprintf("the plan of this image has not the shared change of %s from %q to %q", ref.Name, ref.From, ref.To)
		}
	}
	return ""
}

// recordKey names what a record must have in common with an image before anything of the image is looked at: the changes
// with the bytes of their packages, and all that Kiln and this machine put into it.
func (r *run) recordKey() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // an empty release is a release too
	text, err := json.Marshal([]any{
		recordFormat, r.facts.OS, r.facts.Architecture, upgrade.GroupOf(r.req.Share), r.sharedSums(), r.req.Policy.Conffiles, r.facts.FileSystem,
		unix.ByteSliceToString(u.Release[:]), upgradeScript, initramfsStub, grubStub,
	})
	if err != nil {
		return "none"
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// sharedSums are the checksums of the share's package files, from the signed index.
func (r *run) sharedSums() []string {
	var out []string
	for _, ref := range r.req.Share {
		out = append(out, r.plan.sums[fileName(deb.Package{Name: ref.Name, Version: ref.To, Architecture: ref.Architecture})])
	}
	slices.Sort(out)
	return out
}

// find replays a record that fits, or keeps the lock of the key: then this image is to be recorded.
func (s *sharing) find(ctx context.Context) error {
	store := s.cfg.Caches.Records
	kept, _, err := store.Find(ctx, s.key, s.tree)
	if err != nil {
		return err
	}
	if kept != nil {
		return s.replay(ctx, kept)
	}
	if s.lock, err = store.Lock(ctx, s.key, recordWait); err != nil {
		return err
	}
	if s.lock == nil {
		s.report.Record = "another image of the batch is still being recorded"
		return nil
	}
	if kept, s.why, err = store.Find(ctx, s.key, s.tree); err != nil || kept == nil {
		if s.why != "" {
			s.tell("No record of the shared changes fits: %s.", s.why)
		}
		return err
	}
	return errors.Join(s.unlock(), s.replay(ctx, kept))
}

// replay makes the recorded changes. From its first write on, whatever fails makes the upgrade begin again without it.
func (s *sharing) replay(ctx context.Context, kept *record.Kept) error {
	s.touched = true
	files, err := kept.Apply(ctx, s.tree)
	for _, name := range deferredNotes {
		if err == nil && kept.Notes[name] != "" {
			err = os.WriteFile(s.deferredFile(name), []byte(kept.Notes[name]), 0o644)
		}
	}
	if errs.CodeOf(err) == record.CodeDamaged {
		return errors.Join(err, kept.Drop())
	}
	if err := errors.Join(err, kept.Close()); err != nil {
		return err
	}
	s.tell("The shared changes came from a record: %d files.", files)
	s.report.Record, s.report.Replayed = replayed, files
	return nil
}

func (r *run) deferredFile(name string) string { return filepath.Join(r.control(), "deferred", name) }

// record lets the package manager make the shared changes, and nothing but them, while all is taken down.
func (s *sharing) record(ctx context.Context) error {
	store := s.cfg.Caches.Records
	full, err := store.Full(s.key)
	if err != nil {
		return err
	}
	if full {
		s.report.Record = s.why
		return s.unlock()
	}
	draft, err := store.Create(s.key)
	if err != nil {
		return err
	}
	rec, why, err := s.watch(ctx, draft)
	if err != nil || why != "" {
		s.report.Record = "not recorded: " + why
		return errors.Join(err, draft.Discard(), s.unlock())
	}
	s.report.Record = recorded
	return errors.Join(draft.Keep(rec), s.unlock())
}

func (s *sharing) watch(ctx context.Context, draft io.Writer) (*record.Record, string, error) {
	recorder, err := record.Begin(ctx, s.tree, s.req.Share)
	if err != nil {
		return nil, "", err
	}
	if err := os.WriteFile(filepath.Join(s.control(), "share"), []byte(sharePreferences(s.req.Share)), 0o644); err != nil {
		return nil, "", errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
	}
	s.touched = true
	// Triggers stay pending: what they do depends on the rest of each image.
	args := s.aptGet("-o", "Dir::Etc::Preferences="+controlInside+"/share", "-o", "Dir::Etc::PreferencesParts=/dev/null", "-o", "DPkg::ConfigurePending=false",
		"-o", "DPkg::NoTriggers=true", "dist-upgrade")
	if err := s.aptChange(ctx, args, recorder.See); err != nil {
		return nil, "", err
	}
	if err := s.configureShare(ctx, recorder.See); err != nil {
		return nil, "", err
	}
	rec, why, err := recorder.Finish(ctx, draft)
	if err != nil || why != "" {
		return nil, why, err
	}
	rec.Notes = map[string]string{}
	for _, name := range deferredNotes {
		lines, err := s.deferred(name)
		if err != nil {
			return nil, "", err
		}
		if len(lines) > 0 {
			rec.Notes[name] = strings.Join(lines, "\n") + "\n"
		}
	}
	return rec, "", nil
}

// configureShare configures what apt has unpacked: without the last step of apt, which would run the triggers too.
func (s *sharing) configureShare(ctx context.Context, trace func(sandbox.Access)) error {
	unpacked, err := record.Unpacked(s.tree)
	if err != nil || len(unpacked) == 0 {
		return err
	}
	args := append([]string{"/usr/bin/dpkg", "--no-triggers", "--force-unsafe-io"}, conffileOptions(s.req.Policy)...)
	return s.aptChange(ctx, slices.Concat(args, []string{"--configure"}, unpacked), trace)
}

// sharePreferences lets apt see no version but those of the share, so that its dist-upgrade does just them and leaves
// the marks of what was installed by hand as it always does (apt_preferences(5)).
func sharePreferences(share []upgrade.PackageRef) string {
	var b strings.Builder
	b.WriteString("Package: *\nPin: release a=*\nPin-Priority: -1\n")
	for _, ref := range share {
		fmt.Fprintf(&b, "\nPackage: %s\nPin: version %s\nPin-Priority: 990\n", ref.Name, ref.To)
	}
	return b.String()
}

// aptChange runs apt with update-initramfs and update-grub put off.
func (r *run) aptChange(ctx context.Context, apt []string, trace func(sandbox.Access)) error {
	var output tailBuffer
	counter := &aptProgress{total: int64(len(r.plan.uris)), report: r.progress}
	args := append([]string{"/bin/sh", controlInside + "/upgrade"}, apt...)
	spec := sandbox.Spec{Args: args, Proxy: r.proxy, Trace: trace}
	if trace == nil { // what is recorded holds for the image's own programs
		spec.Env = []string{"KILN_QUICK=yes"}
	}
	err := r.inImage(ctx, io.MultiWriter(r.log, &output, counter), spec)
	return r.aptError(err, output.String())
}

// wasReplayed reports whether a package file is needed no more.
func (r *run) wasReplayed(file string) bool {
	return r.report.Record == replayed && slices.ContainsFunc(r.req.Share, func(ref upgrade.PackageRef) bool {
		return file == fileName(deb.Package{Name: ref.Name, Version: ref.To, Architecture: ref.Architecture})
	})
}

// sharedAll reports whether the plan is the share: then only dpkg has something left to do, its triggers.
func (r *run) sharedAll() bool {
	return r.touched && len(r.plan.removed) == 0 && len(r.plan.packages) == len(r.req.Share)
}
