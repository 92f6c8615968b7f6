package offline

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline/reuse"
)

// product is what a program makes of an image's files, the same for all images in which these are the same.
type product struct {
	name   string       // in logs
	words  []string     // what counts beside files
	spec   sandbox.Spec // of the program
	within []string     // the names that it makes or changes, and folders of such

	ignored []string // of what it looks at
	dated   []string // folders of which it reads times
	disk    bool     // words name the disk, so that it may look at that
	late    bool     // it is watched from the second image on that misses it for the same reason: watching takes as long as making
}

// produce takes a product from another image with the same inputs, or makes it: above the image and not in it, so that what it was
// made of is still there afterwards to be noted. It is false where the program has to be run in the image.
func (r *run) produce(ctx context.Context, root *os.Root, p product) (bool, error) {
	cache := r.cfg.Caches.Results
	if cache == nil || strings.ContainsAny(r.work.Path, `,:\`) { // what overlay's options cannot say
		return false, nil
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return false, errs.Wrap(err, errs.Internal, CodeRequest, "the host's kernel does not say its name")
	}
	family := reuse.Family(append([]string{"bundle", p.name, runtime.GOARCH, unix.ByteSliceToString(host.Release[:])}, p.words...)...)
	done, why, err := r.takeProduct(ctx, root, p, family)
	if done || err != nil {
		return done, err
	}
	if p.late {
		if again, err := cache.Missed(family, why); !again || err != nil {
			return false, err
		}
	}
	waited, ended, err := cache.Begin(ctx, family)
	defer ended()
	if err != nil {
		return false, err
	}
	if waited {
		if done, _, err := r.takeProduct(ctx, root, p, family); done || err != nil {
			return done, err
		}
	}
	return r.makeProduct(ctx, root, p, family)
}

// takeProduct is false where none is kept that fits, and says why.
func (r *run) takeProduct(ctx context.Context, root *os.Root, p product, family string) (done bool, why string, err error) {
	kept, why, err := r.cfg.Caches.Results.Find(ctx, family, root, r.begun)
	if err != nil {
		return false, "", err
	}
	if kept == nil {
		if why != "" {
			r.tell("No kept %s fits: %s.", p.name, why)
		}
		return false, why, nil
	}
	defer kept.Close() //nolint:errcheck // read only
	r.tell("The %s is that of an image with the same inputs.", p.name)
	return true, "", unbundle(root, kept.File, p.within)
}

// makeProduct runs the program on a layer above the image, puts what it made into the image and keeps that.
func (r *run) makeProduct(ctx context.Context, root *os.Root, p product, family string) (done bool, err error) {
	layer, err := r.mountLayer(ctx)
	if err != nil {
		r.cfg.Log.WithError(err).Infof("no layer above the image: the %s is made in it", p.name)
		return false, nil
	}
	defer func() { err = errors.Join(err, layer.close(ctx)) }()
	looks := reuse.Looks{Dated: p.dated}
	var output sandbox.Tail
	p.spec.Trace = looks.See
	err = r.inTree(ctx, layer.merged, io.MultiWriter(r.log, &output), p.spec)
	if errs.CodeOf(err) == sandbox.CodeExit {
		return false, nil // the image's own run tells what that means
	}
	if err != nil {
		return false, aptError(err, output.String())
	}
	upper, err := layer.tmpfs.Root()
	if err != nil {
		return false, err
	}
	defer upper.Close() //nolint:errcheck // read only
	result, whole, err := r.bundled(upper, root, p)
	if err != nil || !whole {
		return false, err // a program that writes elsewhere must do so in the image
	}
	defer result.Close() //nolint:errcheck // its content is checked
	if p.disk || !looks.Devices() {
		made := reuse.Made{Family: family, Looks: &looks, Ignored: p.ignored, Begun: r.begun, Result: result}
		if err := r.cfg.Caches.Results.Keep(ctx, root, made); err != nil {
			r.cfg.Log.WithError(err).Warnf("the %s cannot be kept for other images", p.name)
		}
	}
	return true, unbundle(root, result, p.within)
}

// bundled puts what the program made into a file of its own in the work folder.
func (r *run) bundled(upper, image *os.Root, p product) (*os.File, bool, error) {
	out, err := os.CreateTemp(r.work.Path, "bundle-")
	if err != nil {
		return nil, false, errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
	}
	whole, err := bundle(out, upper, image, p.within)
	if err == nil {
		err = os.Remove(out.Name())
	}
	if err != nil || !whole {
		return nil, false, errors.Join(err, out.Close())
	}
	return out, true, nil
}

// Products that packages ask for. Their programs are diverted while packages are upgraded (upgradeScript).

// ramDisk makes the initial RAM disk of a kernel. Names that it looks at and that lead to it do not count: it is made anew.
func (r *run) ramDisk(root *os.Root, version string) product {
	mode, file := "-c", "boot/initrd.img-"+version
	if _, err := root.Lstat(file); err == nil {
		mode = "-u"
	}
	return product{
		name: "initial RAM disk of " + version, words: []string{r.facts.FileSystem, mode}, within: []string{file},
		spec:    sandbox.Spec{Args: []string{"/usr/sbin/update-initramfs", mode, "-k", version}, Env: ramDiskEnv(), RootDisk: r.rootDisk()},
		ignored: []string{"/" + file, "/" + file + ".new", "/" + file + ".bak", "/" + file + ".dpkg-bak"},
	}
}

// certificates are the system's store of certificates.
func certificates() product {
	return product{
		name: "store of certificates", within: []string{"etc/ssl/certs"}, late: true,
		spec: sandbox.Spec{Args: []string{"/usr/sbin/update-ca-certificates"}},
	}
}

// manuals are the index of manuals. It has the times of the manuals, and those of their folders tell mandb(8) where to look for
// new ones: so it is the same only in images that have it from the same one.
func manuals(root *os.Root) product {
	words := []string{"none"}
	if info, err := root.Lstat("var/cache/man/index.db"); err == nil {
		words = []string{info.ModTime().UTC().Format(time.RFC3339Nano)}
	}
	return product{
		name: "index of manuals", words: words, within: []string{"var/cache/man"}, late: true,
		dated: manualFolders(root),
		spec:  sandbox.Spec{Args: []string{"/usr/bin/setpriv", "--reuid", "man", "--regid", "man", "--init-groups", "--", "/usr/bin/mandb", "-pq"}},
	}
}

// manualFolders are those that mandb(8) may look into: all that manpath(5) names.
func manualFolders(root *os.Root) []string {
	text, err := readFile(root, "etc/manpath.config", maxStatus)
	if err != nil {
		return []string{"/"}
	}
	out := []string{"/var/cache/man"}
	for word := range strings.FieldsSeq(string(text)) {
		if strings.HasPrefix(word, "/") {
			out = append(out, path.Clean(word))
		}
	}
	return out
}

// bootMenu is GRUB's. What it says of the disk is in the words.
func (r *run) bootMenu() product {
	disk := r.rootDisk()
	return product{
		name: "boot menu", words: []string{disk.UUID, disk.FSType}, within: []string{"boot/grub"}, late: true, disk: true,
		spec: sandbox.Spec{Args: []string{"/usr/sbin/update-grub"}, RootDisk: disk},
	}
}

// lateScript makes what is named in the image itself, at the same time. man-db's postinst takes no notice of how mandb(8) ends,
// and neither does this.
const lateScript = `#!/bin/sh
late= code=0
case " $* " in *" certificates "*)
	/usr/sbin/update-ca-certificates &
	late=$!
	;;
esac
case " $* " in *" manuals "*)
	setpriv --reuid man --regid man --init-groups -- /usr/bin/mandb -pq
	;;
esac
[ -z "$late" ] || wait "$late" || code=1
exit $code
`

// makeLate makes the store of certificates and the index of manuals, where packages asked for them.
func (r *run) makeLate(ctx context.Context, root *os.Root) error {
	var left []string
	for _, name := range []string{deferredCertificates, deferredManuals} {
		asked, err := r.deferred(name)
		if err != nil {
			return err
		}
		if len(asked) == 0 {
			continue
		}
		p := certificates()
		if name == deferredManuals {
			p = manuals(root)
		}
		done, err := r.produce(ctx, root, p)
		if err != nil {
			return err
		}
		if !done {
			left = append(left, name)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return r.tool(ctx, sandbox.Spec{Args: append([]string{"/bin/sh", controlInside + "/late"}, left...)})
}

// ramDisks makes the initial RAM disks of kernels.
func (r *run) ramDisks(ctx context.Context, root *os.Root, versions []string) error {
	var left []string
	for _, v := range versions {
		done, err := r.produce(ctx, root, r.ramDisk(root, v))
		if err != nil {
			return err
		}
		if !done {
			left = append(left, v)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return r.tool(ctx, sandbox.Spec{Args: append([]string{"/bin/sh", controlInside + "/finish"}, left...), Env: ramDiskEnv(), RootDisk: r.rootDisk()})
}

// ramDiskEnv are variables for update-initramfs. Without SHELL each bash reads the users for it, and what is made would depend
// on them; nothing in an initial RAM disk's making looks at it.
func ramDiskEnv() []string { return []string{"SHELL=/bin/sh"} }
