package offline

import (
	"cmp"
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

// recordFormat goes into every key: records of another form are not found.
const recordFormat = "4"

// What the stubs write: what was asked for, to be done once in the end.
const (
	deferredRAMDisks     = "initramfs"
	deferredMenu         = "grub"
	deferredCertificates = "certificates"
	deferredManuals      = "manuals"
)

var deferredNotes = []string{deferredRAMDisks, deferredMenu, deferredCertificates, deferredManuals}

// sharing is a part of one upgrade that other images have too: what the batch shares, or what is left of the plan then, which
// images with equal plans share.
type sharing struct {
	*run
	tree  *record.Tree
	share []upgrade.PackageRef
	first bool // of the request: Report.Record tells of it
	rest  bool // left of the plan
	key   string
	lock  io.Closer // while this image may be recorded
	why   string    // the records that there are do not fit
}

// replayShare makes the changes that this image shares with others of its batch where records of them are proven to fit.
// Where there is none, this image is to be recorded. Where neither can be, Report.Record says why.
func (r *run) replayShare(ctx context.Context, root *os.Root) error {
	r.req.Shares = slices.DeleteFunc(slices.Clone(r.req.Shares), func(s []upgrade.PackageRef) bool { return len(s) == 0 })
	if len(r.req.Shares) == 0 || r.cfg.Caches.Records == nil {
		return nil
	}
	if r.report.Record = r.shareMissing(); r.report.Record != "" {
		return nil
	}
	tree, err := record.OpenTree(root)
	if err != nil {
		return cannotRead(err, ".")
	}
	return r.nextShares(ctx, tree)
}

// nextShares replays one share after the other, up to one that is to be recorded or left to the package manager: those after it
// are closed only when it is made. What is left of the plan in the end is shared with images that have an equal plan.
func (r *run) nextShares(ctx context.Context, tree *record.Tree) error {
	for r.shares < len(r.req.Shares) {
		share := r.req.Shares[r.shares]
		r.shared = &sharing{run: r, tree: tree, share: share, first: r.shares == 0, key: r.recordKey(share)}
		made := len(r.made)
		if err := r.shared.alone(r.shared.find(ctx)); err != nil || len(r.made) == made {
			return err
		}
		r.shares++
	}
	rest := r.restOfPlan()
	if len(rest) == 0 {
		return nil
	}
	r.shared = &sharing{run: r, tree: tree, share: rest, rest: true, key: r.recordKey(rest)}
	return r.shared.find(ctx)
}

// restOfPlan are the changes that are not made yet; none where packages also go, which only apt can do.
func (r *run) restOfPlan() []upgrade.PackageRef {
	if len(r.plan.removed) > 0 {
		return nil
	}
	var out []upgrade.PackageRef
	for _, p := range r.plan.packages {
		if ref := r.refOf(p); !slices.Contains(r.made, ref) {
			out = append(out, ref)
		}
	}
	slices.SortFunc(out, upgrade.ComparePackageRefs)
	return out
}

// refOf is a change of the plan.
func (r *run) refOf(p deb.Package) upgrade.PackageRef {
	ref := upgrade.PackageRef{Name: p.Name, Architecture: p.Architecture, To: p.Version}
	if i := slices.IndexFunc(r.before, func(b deb.Package) bool { return b.Name == p.Name && b.Architecture == p.Architecture }); i >= 0 {
		ref.From = r.before[i].Version
	}
	return ref
}

// recordShare lets the package manager make the shared changes and records them, if replayShare left that to it.
func (r *run) recordShare(ctx context.Context) error {
	for r.shared != nil && r.shared.lock != nil {
		s, made := r.shared, len(r.made)
		if err := s.alone(s.record(ctx)); err != nil || len(r.made) == made || s.rest {
			return err
		}
		r.shares++
		if err := r.nextShares(ctx, s.tree); err != nil {
			return err
		}
	}
	return nil
}

// alone takes a failure, before it changed anything, for a reason to go on without what is shared.
func (s *sharing) alone(err error) error {
	if err != nil && !s.touched && !errs.Is(err, errs.Cancelled) && !errs.Is(err, errs.Timeout) {
		s.cfg.Log.WithError(err).Warn("an upgrade is neither recorded nor replayed")
		if s.first {
			s.report.Record = err.Error()
		}
		err = s.unlock()
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
	for _, ref := range slices.Concat(r.req.Shares...) {
		if !slices.ContainsFunc(r.plan.packages, func(p deb.Package) bool { return r.refOf(p) == ref }) {
			return fmt.Sprintf("the plan of this image has not the shared change of %s from %q to %q", ref.Name, ref.From, ref.To)
		}
	}
	return ""
}

// recordKey names what a record must have in common with an image before anything of the image is looked at: the changes
// with the bytes of their packages, and all that Kiln and this machine put into it.
func (r *run) recordKey(share []upgrade.PackageRef) string {
	var u unix.Utsname
	_ = unix.Uname(&u) // an empty release is a release too
	text, err := json.Marshal([]any{
		recordFormat, r.facts.OS, r.facts.Architecture, upgrade.GroupOf(share), r.sumsOf(share), r.req.Policy.Conffiles, r.facts.FileSystem,
		unix.ByteSliceToString(u.Release[:]), upgradeScripts, r.quick, r.plan.counting(),
	})
	if err != nil {
		return "none"
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// sumsOf are the checksums of a share's package files, from the signed index.
func (r *run) sumsOf(share []upgrade.PackageRef) []string {
	var out []string
	for _, ref := range share {
		out = append(out, r.plan.sums[fileName(deb.Package{Name: ref.Name, Version: ref.To, Architecture: ref.Architecture})])
	}
	slices.Sort(out)
	return out
}

// find replays a record that fits, or keeps the lock of the key: then this image is to be recorded. Recording takes longer than
// the changes alone, so it is done where another image had use for the record: always for what a batch shares, and else from the
// second image on that misses it.
func (s *sharing) find(ctx context.Context) (err error) {
	store := s.cfg.Caches.Records
	var kept *record.Kept
	if kept, s.why, err = store.Find(ctx, s.key, s.tree); err != nil {
		return err
	}
	if kept != nil {
		return s.replay(ctx, kept)
	}
	if s.why != "" || s.rest {
		if again, err := store.Missed(s.key, s.why); err != nil || !again {
			s.leave(s.why)
			return err
		}
	}
	if s.lock, err = store.Lock(ctx, s.key, store.Pace()*time.Duration(len(s.share))); err != nil {
		return err
	}
	if s.lock == nil {
		s.leave("another image of the batch is being recorded")
		return nil
	}
	if kept, s.why, err = store.Find(ctx, s.key, s.tree); err != nil || kept == nil {
		return err
	}
	return errors.Join(s.unlock(), s.replay(ctx, kept))
}

// leave leaves the changes to the package manager.
func (s *sharing) leave(why string) {
	if why != "" {
		s.tell("No record of the shared changes is used: %s.", why)
	}
	if s.first {
		s.report.Record = why
	}
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
	s.report.Replayed, s.made = s.report.Replayed+files, append(s.made, s.share...)
	if s.first {
		s.report.Record = replayed
	}
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
		s.leave(cmp.Or(s.why, "other images of the batch could not be recorded"))
		return s.unlock()
	}
	s.tell("%d changes are recorded for other images (%s).", len(s.share), cmp.Or(s.why, "there is no record of them"))
	draft, err := store.Create(s.key)
	if err != nil {
		return err
	}
	rec, why, err := s.watch(ctx, draft)
	if err == nil && why != "" {
		s.leave("not recorded: " + why)
		err = store.Refused(s.key)
	}
	if rec == nil || err != nil {
		return errors.Join(err, draft.Discard(), s.unlock())
	}
	if s.first {
		s.report.Record = recorded
	}
	return errors.Join(draft.Keep(rec), s.unlock())
}

func (s *sharing) watch(ctx context.Context, draft io.Writer) (*record.Record, string, error) {
	recorder, err := record.Begin(ctx, s.tree, s.share)
	if err != nil {
		return nil, "", err
	}
	if err := os.WriteFile(filepath.Join(s.control(), "share"), []byte(sharePreferences(s.share)), 0o644); err != nil {
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
	s.made = append(s.made, s.share...)
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
	var output sandbox.Tail
	counter := &aptProgress{total: int64(len(r.plan.uris)), report: r.progress}
	args := append([]string{"/bin/sh", controlInside + "/upgrade"}, apt...)
	if apt[0] == aptProgram {
		where := r.plan.setting("DPkg::Path") // empty: dpkg has the PATH of apt
		if where != "" {
			where = quickFolder + ":" + where
		}
		args = append(args, "-o", "DPkg::Path="+where)
	}
	err := r.inImage(ctx, io.MultiWriter(r.log, &output, counter), sandbox.Spec{Args: args, Env: []string{"KILN_QUICK=" + strings.Join(r.quick, " ")}, Proxy: r.proxy, Trace: trace})
	return r.aptError(err, output.String())
}

// isMade reports whether a package file is needed no more.
func (r *run) isMade(file string) bool {
	return slices.ContainsFunc(r.made, func(ref upgrade.PackageRef) bool {
		return file == fileName(deb.Package{Name: ref.Name, Version: ref.To, Architecture: ref.Architecture})
	})
}

// allMade reports whether only dpkg has something left to do, its triggers.
func (r *run) allMade() bool {
	return len(r.plan.removed) == 0 && len(r.plan.packages) == len(r.made)
}
