package nova_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/pocket/nova"
)

// bootSector is a disk whose BIOS boot code writes a text to the first serial port and halts.
func bootSector(text string) []byte {
	disk := make([]byte, 1<<20)
	code := []byte{
		0x31, 0xC0, 0x8E, 0xD8, // xor ax,ax; mov ds,ax
		0xBE, 0x15, 0x7C, // mov si,text
		0xAC, 0x84, 0xC0, 0x74, 0x06, // next: lodsb; test al,al; jz end
		0xBA, 0xF8, 0x03, 0xEE, 0xEB, 0xF5, // mov dx,0x3f8; out dx,al; jmp next
		0xF4, 0xEB, 0xFD, // end: hlt; jmp end
	}
	copy(disk, append(code, text+"\r\n\x00"...))
	disk[510], disk[511] = 0x55, 0xAA
	return disk
}

// needTools wants QEMU: visibly skipped with -short, a failure without.
func needTools(t *testing.T, tools ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a guest with QEMU: not with -short")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v (Debian: qemu-system-x86, qemu-utils)", err)
		}
	}
}

// qcow2 converts a raw disk.
func qcow2(t *testing.T, raw []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/raw", raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "convert", "-f", "raw", "-O", "qcow2", dir+"/raw", dir+"/qcow2").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(dir + "/qcow2")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (l *lab) console(id string) string {
	l.t.Helper()
	_, answer := l.call(http.MethodPost, l.compute("/servers/"+id+"/action"), map[string]any{"os-getConsoleOutput": map[string]any{}}, http.StatusOK)
	return fmt.Sprint(answer["output"])
}

// processOf finds the pid of the QEMU that runs a guest; "" for none.
func processOf(t *testing.T, id string) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && bytes.Contains(line, []byte("-uuid\x00"+id)) {
			return strings.Split(file, "/")[2]
		}
	}
	return ""
}

// TestBoot: the first guest downloads its qcow2 image and converts it, the second one on the node uses the cached
// file, and both really run until they are deleted.
func TestBoot(t *testing.T) {
	needTools(t, "qemu-system-x86_64", "qemu-img")
	l := newLab(t, nova.Deps{}, "qemu")
	disk := bootSector("KILN FROM GLANCE")
	image := l.image("qcow2", qcow2(t, disk))

	first := fmt.Sprint(l.boot(image, "node1", "ACTIVE")["id"])
	l.eventually("the guest speaks", func() bool { return strings.Contains(l.console(first), "KILN FROM GLANCE") })
	cached := filepath.Join(l.nodes[0].InstancesPath, "_base", nova.CacheName(image))
	if data, err := os.ReadFile(cached); err != nil || !bytes.Equal(data, disk) {
		t.Errorf("the cached file is not the raw disk: %d bytes, %v", len(data), err)
	}
	second := fmt.Sprint(l.boot(image, "node1", "ACTIVE")["id"])
	if n := l.downloads(image); n != 1 {
		t.Errorf("%d downloads for two guests on one node, want 1", n)
	}
	if sent := l.notes("notifications.info", "image.send"); len(sent) != 1 {
		t.Errorf("%d image.send, want 1", len(sent))
	}
	if processOf(t, first) == "" || processOf(t, second) == "" {
		t.Fatal("no QEMU runs")
	}
	l.remove(first)
	if pid := processOf(t, first); pid != "" {
		t.Errorf("the deleted guest still runs as %s", pid)
	}
	if _, err := os.Stat(filepath.Join(l.nodes[0].InstancesPath, first)); !os.IsNotExist(err) {
		t.Errorf("the deleted guest's folder is still there: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if pid := processOf(t, second); pid != "" {
		t.Errorf("after Close a guest still runs as %s", pid)
	}
}

// TestPlanted: a file that is in the cache already is used as it is, without a download.
func TestPlanted(t *testing.T) {
	needTools(t, "qemu-system-x86_64", "qemu-img")
	l := newLab(t, nova.Deps{}, "qemu")
	image := l.image("raw", bootSector("KILN FROM GLANCE"))
	planted := filepath.Join(l.nodes[1].InstancesPath, "_base", nova.CacheName(image))
	if err := os.WriteFile(planted, bootSector("KILN FROM THE COPY"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprint(l.boot(image, "node2", "ACTIVE")["id"])
	l.eventually("the guest speaks", func() bool { return strings.Contains(l.console(id), "KILN FROM THE COPY") })
	if n := l.downloads(image); n != 0 {
		t.Errorf("%d downloads, want none", n)
	}
}

// TestPrecache places an image in the caches of an aggregate's nodes and tells it by notifications.
func TestPrecache(t *testing.T) {
	l := newLab(t, nova.Deps{}, "fake")
	image := l.image("raw", []byte("a disk"))
	_, made := l.call(http.MethodPost, l.compute("/os-aggregates"), map[string]any{"aggregate": map[string]any{"name": "a"}}, http.StatusOK)
	view, _ := made["aggregate"].(map[string]any)
	path := l.compute(fmt.Sprintf("/os-aggregates/%v", view["id"]))
	for _, node := range l.nodes {
		l.call(http.MethodPost, path+"/action", map[string]any{"add_host": map[string]any{"host": node.Name}}, http.StatusOK)
	}
	l.call(http.MethodPost, path+"/images", map[string]any{"cache": []any{map[string]any{"id": image}}}, http.StatusAccepted)
	l.eventually("cache_images.end", func() bool {
		return len(l.notes("versioned_notifications.info", "aggregate.cache_images.end")) == 1
	})
	for _, node := range l.nodes {
		data, err := os.ReadFile(filepath.Join(node.InstancesPath, "_base", nova.CacheName(image)))
		if err != nil || string(data) != "a disk" {
			t.Errorf("%s: %q, %v", node.Name, data, err)
		}
	}
	progress := l.notes("versioned_notifications.info", "aggregate.cache_images.progress")
	if len(progress) != 2 {
		t.Fatalf("%d progress notifications, want one for each node", len(progress))
	}
	sameShape(t, "nova-versioned_notifications.info-aggregate.cache_images.progress", progress[1])
	sameShape(t, "nova-versioned_notifications.info-aggregate.cache_images.end", l.notes("versioned_notifications.info", "aggregate.cache_images.end")[0])
}

// TestBuildFails: without QEMU, and with a qcow2 that names a backing file, a server ends in ERROR with a clear
// fault, without a host and without an allocation.
func TestBuildFails(t *testing.T) {
	hostile := make([]byte, 512)
	copy(hostile, "QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x0b")
	here, err := os.Executable() // any program that is there: it is never started
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		deps    nova.Deps
		format  string
		data    []byte
		message string
	}{
		"no QEMU":      {nova.Deps{QEMU: "/nonexistent/qemu"}, "raw", []byte("disk"), "/nonexistent/qemu is not installed on node node1"},
		"backing file": {nova.Deps{QEMU: here}, "qcow2", hostile, "is unacceptable: fmt=qcow2 backed by: a backing file"},
		"not a qcow2":  {nova.Deps{QEMU: here}, "qcow2", []byte("no such thing"), "is unacceptable: Converted to raw, but format is not qcow2"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, c.deps, "qemu")
			server := l.boot(l.image(c.format, c.data), "node1", "ERROR")
			told, _ := server["fault"].(map[string]any)
			if text := fmt.Sprint(told["message"]); !strings.Contains(text, c.message) {
				t.Errorf("fault %q, want %q in it", text, c.message)
			}
			if server["OS-EXT-SRV-ATTR:host"] != nil {
				t.Errorf("host is %v", server["OS-EXT-SRV-ATTR:host"])
			}
			if held := l.holds(fmt.Sprint(server["id"])); held != "map[]" {
				t.Errorf("it still holds %s", held)
			}
			l.eventually("instance.create.error", func() bool {
				return len(l.notes("versioned_notifications.error", "instance.create.error")) == 1
			})
			sameShape(t, "nova-versioned_notifications.error-instance.create.error", l.notes("versioned_notifications.error", "instance.create.error")[0])
		})
	}
}
