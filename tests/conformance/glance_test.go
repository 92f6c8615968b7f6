package conformance

import (
	"bytes"
	"crypto/md5"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

const imageKeys = "id name status owner visibility disk_format container_format size virtual_size checksum os_hash_algo os_hash_value " +
	"min_disk min_ram protected os_hidden tags created_at updated_at locations self file schema"

func testGlance(t *testing.T, target Target) {
	users := &glanceUsers{demo: login(t, target, "demo", "demo"), reader: login(t, target, "demo-reader", "demo"),
		other: login(t, target, "other", "other"), admin: login(t, target, "admin", "admin")}
	for _, part := range []struct {
		name string
		test func(t *testing.T, g *glanceUsers)
	}{
		{"versions", glanceVersions}, {"create", glanceCreate}, {"refused creates", glanceRefusedCreates}, {"upload", glanceUpload},
		{"refused uploads", glanceRefusedUploads}, {"broken upload", glanceBrokenUpload}, {"download", glanceDownload},
		{"patch", glancePatch}, {"delete", glanceDelete}, {"isolation", glanceIsolation}, {"members", glanceMembers},
		{"list", glanceList}, {"tags and actions", glanceActions}, {"stores", glanceStores}, {"copy-image", glanceCopy},
		{"glance-direct", glanceDirect}, {"refused imports", glanceRefusedImports},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, users) })
	}
}

type glanceUsers struct{ demo, reader, other, admin *session }

// image makes an image of demo that goes away with the test.
func (g *glanceUsers) image(t *testing.T, attributes map[string]any) string {
	t.Helper()
	body := map[string]any{"name": "conformance-" + uuid.NewString(), "disk_format": "raw", "container_format": "bare"}
	maps.Copy(body, attributes)
	id := g.demo.post(t, "image", "/v2/images", body).want(t, http.StatusCreated).text("id")
	t.Cleanup(func() {
		g.patch(t, g.admin, id, "replace", "protected", false)
		g.admin.delete(t, "image", "/v2/images/"+id)
	})
	return id
}

// full is an active image with these bytes.
func (g *glanceUsers) full(t *testing.T, content []byte) string {
	t.Helper()
	id := g.image(t, nil)
	g.demo.put(t, "image", "/v2/images/"+id+"/file", content).want(t, http.StatusNoContent)
	return id
}

func (g *glanceUsers) patch(t *testing.T, s *session, id, op, key string, value any) *reply {
	t.Helper()
	change := map[string]any{"op": op, "path": "/" + key}
	if op != "remove" {
		change["value"] = value
	}
	return s.call(t, http.MethodPatch, "image", "/v2/images/"+id, []any{change}, "Content-Type", "application/openstack-images-v2.1-json-patch")
}

// glanceError checks Glance's error body.
func glanceError(t *testing.T, r *reply, status int, text string) {
	t.Helper()
	r.want(t, status).keys(t, "", "code message title")
	if !strings.HasPrefix(r.text("code"), strconv.Itoa(status)+" ") || !strings.Contains(r.text("message"), "<br /><br />\n") {
		t.Errorf("%s: %s", r.what, short(r.raw))
	}
	r.contains(t, "message", text)
}

func glanceVersions(t *testing.T, g *glanceUsers) {
	r := g.demo.get(t, "image", "/", "X-Auth-Token", "").want(t, http.StatusMultipleChoices)
	r.keys(t, "versions.0", "id links status").equal(t, "versions.0.status", "CURRENT")
	if !strings.HasSuffix(r.text("versions.0.links.0.href"), "/v2/") {
		t.Errorf("href %q", r.text("versions.0.links.0.href"))
	}
	g.demo.get(t, "image", "/versions", "X-Auth-Token", "").want(t, http.StatusOK)
	r = g.demo.get(t, "image", "/v2/images", "X-Auth-Token", "").want(t, http.StatusUnauthorized)
	r.wantHeader(t, "WWW-Authenticate", `Keystone uri="`+g.demo.target.AuthURL+`"`)
	glanceError(t, r, http.StatusUnauthorized, "This server could not verify that you are authorized to access the document you requested. Either")
	glanceError(t, g.demo.get(t, "image", "/v2/images", "X-Auth-Token", "gAAAAABforged"), http.StatusUnauthorized, "")
	for accept, want := range map[string]string{"": "text/plain; charset=UTF-8", "*/*": "text/html; charset=UTF-8", "application/json": "application/json"} {
		r := g.demo.get(t, "image", "/v2/images/none", "Accept", accept).want(t, http.StatusNotFound)
		r.wantHeader(t, "Content-Type", want).wantHeader(t, "X-Openstack-Request-Id", "")
	}
}

func glanceCreate(t *testing.T, g *glanceUsers) {
	name := "conformance-" + uuid.NewString()
	r := g.demo.post(t, "image", "/v2/images", map[string]any{"name": name, "disk_format": "qcow2", "container_format": "bare", "min_disk": 2,
		"min_ram": 64, "tags": []string{"b", "a", "b"}, "kiln_family": "debian-12"}).want(t, http.StatusCreated)
	id := r.text("id")
	t.Cleanup(func() { g.demo.delete(t, "image", "/v2/images/"+id) })
	r.keys(t, "", imageKeys+" kiln_family").equal(t, "status", "queued").equal(t, "visibility", "shared").equal(t, "owner", g.demo.projectID)
	r.equal(t, "size", nil).equal(t, "virtual_size", nil).equal(t, "checksum", nil).equal(t, "os_hash_algo", nil).equal(t, "os_hidden", false)
	r.equal(t, "protected", false).equal(t, "min_disk", 2).equal(t, "min_ram", 64).equal(t, "kiln_family", "debian-12").equal(t, "locations", []any{})
	if tags := sortedValues(r.list("tags"), ""); !slices.Equal(tags, []string{"a", "b"}) {
		t.Errorf("tags %v", tags)
	}
	r.equal(t, "self", "/v2/images/"+id).equal(t, "file", "/v2/images/"+id+"/file").equal(t, "schema", "/v2/schemas/image")
	if !strings.HasSuffix(r.header.Get("Location"), "/v2/images/"+id) || len(r.text("created_at")) != len("2026-11-21T22:31:33Z") {
		t.Errorf("Location %q, created_at %q", r.header.Get("Location"), r.text("created_at"))
	}
	r.wantHeader(t, "Openstack-Image-Store-Ids", "")
	for _, method := range []string{"glance-direct", "copy-image"} {
		if !strings.Contains(r.header.Get("Openstack-Image-Import-Methods"), method) {
			t.Errorf("import methods: %q", r.header.Get("Openstack-Image-Import-Methods"))
		}
	}
	g.demo.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK).keys(t, "", imageKeys+" kiln_family")

	chosen := uuid.NewString()
	r = g.demo.post(t, "image", "/v2/images", map[string]any{"id": chosen}).want(t, http.StatusCreated)
	t.Cleanup(func() { g.demo.delete(t, "image", "/v2/images/"+chosen) })
	r.equal(t, "id", chosen).equal(t, "name", nil).equal(t, "disk_format", nil)
	glanceError(t, g.demo.post(t, "image", "/v2/images", map[string]any{"id": chosen}), http.StatusConflict, "Image ID "+chosen+" already exists!")
}

func glanceRefusedCreates(t *testing.T, g *glanceUsers) {
	for name, c := range map[string]struct {
		body   any
		status int
		text   string
	}{
		"unknown disk format":   {map[string]any{"disk_format": "floppy"}, http.StatusBadRequest, "Provided object does not match schema 'image'"},
		"unknown container":     {map[string]any{"container_format": "box"}, http.StatusBadRequest, "Provided object does not match schema 'image'"},
		"property is no text":   {map[string]any{"kiln_number": 1}, http.StatusBadRequest, "is not of type 'string'"},
		"read-only attribute":   {map[string]any{"stores": "file1"}, http.StatusForbidden, "Attribute 'stores' is read-only."},
		"reserved attribute":    {map[string]any{"deleted": "x"}, http.StatusForbidden, "Access was denied to this resource.<br /><br />\nAttribute 'deleted' is reserved."},
		"reserved name space":   {map[string]any{"os_glance_x": "x"}, http.StatusForbidden, "Attribute 'os_glance_x' is reserved."},
		"public without admin":  {map[string]any{"visibility": "public"}, http.StatusForbidden, ""},
		"unknown visibility":    {map[string]any{"visibility": "secret"}, http.StatusBadRequest, "Provided object does not match schema 'image'"},
		"for somebody else":     {map[string]any{"owner": "none"}, http.StatusForbidden, ""},
		"id is no uuid":         {map[string]any{"id": "one"}, http.StatusBadRequest, "Provided object does not match schema 'image'"},
		"size is for Glance":    {map[string]any{"size": 3}, http.StatusForbidden, ""},
		"body is no JSON":       {"{", http.StatusBadRequest, ""},
		"name is not text":      {map[string]any{"name": 3}, http.StatusBadRequest, "Provided object does not match schema 'image'"},
		"min_disk is no number": {map[string]any{"min_disk": "3"}, http.StatusBadRequest, "Provided object does not match schema 'image'"},
	} {
		t.Run(name, func(t *testing.T) {
			r := g.demo.post(t, "image", "/v2/images", c.body)
			if r.status == http.StatusCreated {
				g.demo.delete(t, "image", "/v2/images/"+r.text("id"))
			}
			glanceError(t, r, c.status, c.text)
		})
	}
	glanceError(t, g.reader.post(t, "image", "/v2/images", map[string]any{}), http.StatusForbidden, "")
}

func glanceUpload(t *testing.T, g *glanceUsers) {
	content := bytes.Repeat([]byte("kiln"), 256<<10)
	sumMD5, sumSHA := md5.Sum(content), sha512.Sum512(content)
	id := g.image(t, nil)
	g.demo.put(t, "image", "/v2/images/"+id+"/file", content).want(t, http.StatusNoContent)
	r := g.demo.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK)
	r.keys(t, "", imageKeys+" stores direct_url").equal(t, "status", "active").equal(t, "size", len(content)).equal(t, "virtual_size", len(content))
	r.equal(t, "checksum", hex.EncodeToString(sumMD5[:])).equal(t, "os_hash_algo", "sha512").equal(t, "os_hash_value", hex.EncodeToString(sumSHA[:]))
	stores := g.demo.get(t, "image", "/v2/info/stores").want(t, http.StatusOK).list("stores")
	r.equal(t, "stores", at(stores[0], "id")).equal(t, "locations.0.metadata", map[string]any{"store": at(stores[0], "id")})
	r.equal(t, "locations.0.url", r.text("direct_url"))
	glanceError(t, g.demo.put(t, "image", "/v2/images/"+id+"/file", content), http.StatusConflict, "Image status transition from active to saving is not allowed")

	qcow := g.image(t, map[string]any{"disk_format": "qcow2"})
	g.demo.put(t, "image", "/v2/images/"+qcow+"/file", emptyQcow2(10<<30)).want(t, http.StatusNoContent)
	g.demo.get(t, "image", "/v2/images/"+qcow).want(t, http.StatusOK).equal(t, "virtual_size", 10<<30).equal(t, "size", 64<<10)

	second := at(stores[1], "id").(string)
	elsewhere := g.image(t, nil)
	g.demo.put(t, "image", "/v2/images/"+elsewhere+"/file", content, "X-Image-Meta-Store", second).want(t, http.StatusNoContent)
	g.demo.get(t, "image", "/v2/images/"+elsewhere).want(t, http.StatusOK).equal(t, "stores", second)
}

// emptyQcow2 is a version 3 header of an image without data, padded to one cluster.
func emptyQcow2(size uint64) []byte {
	head := make([]byte, 64<<10)
	copy(head, "QFI\xfb")
	binary.BigEndian.PutUint32(head[4:], 3)
	binary.BigEndian.PutUint32(head[20:], 16)
	binary.BigEndian.PutUint64(head[24:], size)
	binary.BigEndian.PutUint32(head[100:], 104)
	return head
}

func glanceRefusedUploads(t *testing.T, g *glanceUsers) {
	id := g.image(t, nil)
	file := "/v2/images/" + id + "/file"
	g.demo.put(t, "image", file, []byte("x"), "Content-Type", "application/json").want(t, http.StatusUnsupportedMediaType)
	glanceError(t, g.demo.put(t, "image", file, []byte("x"), "X-Image-Meta-Store", "none"), http.StatusBadRequest, "none")
	glanceError(t, g.reader.put(t, "image", file, []byte("x")), http.StatusForbidden, "")
	glanceError(t, g.other.put(t, "image", file, []byte("x")), http.StatusNotFound, "No image found with ID "+id)
	g.demo.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK).equal(t, "status", "queued")

	bare := g.demo.post(t, "image", "/v2/images", map[string]any{"name": "conformance"}).want(t, http.StatusCreated).text("id")
	t.Cleanup(func() { g.demo.delete(t, "image", "/v2/images/"+bare) })
	glanceError(t, g.demo.put(t, "image", "/v2/images/"+bare+"/file", []byte("x")), http.StatusBadRequest,
		"Properties disk_format, container_format must be set prior to saving data.")
	g.demo.get(t, "image", "/v2/images/"+bare).want(t, http.StatusOK).equal(t, "status", "queued")
}

// glanceBrokenUpload: a client that goes away in the middle leaves the image queued, and a second upload works.
func glanceBrokenUpload(t *testing.T, g *glanceUsers) {
	id := g.image(t, nil)
	file := "/v2/images/" + id + "/file"
	breakUpload(t, g.demo, file)
	deadline := time.Now().Add(30 * time.Second)
	for {
		r := g.demo.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK)
		if r.text("status") == "queued" && r.number("size") == 0 {
			break
		}
		if r.text("status") == "active" || time.Now().After(deadline) {
			t.Fatalf("after a broken upload: %s", short(r.raw))
		}
		time.Sleep(100 * time.Millisecond)
	}
	g.demo.put(t, "image", file, []byte("whole")).want(t, http.StatusNoContent)
	g.demo.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK).equal(t, "status", "active").equal(t, "size", 5)
}

func glanceDownload(t *testing.T, g *glanceUsers) {
	id := g.full(t, []byte("0123456789"))
	file := "/v2/images/" + id + "/file"
	sum := md5.Sum([]byte("0123456789"))
	r := g.demo.get(t, "image", file).want(t, http.StatusOK)
	r.wantHeader(t, "Content-Type", "application/octet-stream").wantHeader(t, "Content-Length", "10").wantHeader(t, "Content-Md5", hex.EncodeToString(sum[:]))
	if string(r.raw) != "0123456789" {
		t.Errorf("got %q", r.raw)
	}
	for header, want := range map[string]struct{ body, header string }{
		"bytes=2-4": {"234", "bytes 2-4/10"}, "bytes=7-": {"789", "bytes 7-9/10"}, "bytes=-3": {"789", "bytes 7-9/10"}, "bytes=8-20": {"89", "bytes 8-9/10"},
	} {
		r := g.demo.get(t, "image", file, "Range", header).want(t, http.StatusPartialContent).wantHeader(t, "Content-Range", want.header)
		if string(r.raw) != want.body {
			t.Errorf("%s: got %q, want %q", header, r.raw, want.body)
		}
	}
	g.demo.get(t, "image", file, "Range", "bytes=10-").want(t, http.StatusRequestedRangeNotSatisfiable)
	g.demo.get(t, "image", file, "Range", "lines=1-2").want(t, http.StatusRequestedRangeNotSatisfiable)
	g.demo.get(t, "image", file, "Range", "bytes=0-1,3-4").want(t, http.StatusBadRequest)
	glanceError(t, g.reader.get(t, "image", file), http.StatusForbidden, "You are not authorized to complete download_image action.")
	glanceError(t, g.other.get(t, "image", file), http.StatusNotFound, "No image found with ID "+id)
	queued := g.image(t, nil)
	g.demo.get(t, "image", "/v2/images/"+queued+"/file").want(t, http.StatusNoContent)
}

func glancePatch(t *testing.T, g *glanceUsers) {
	id := g.image(t, map[string]any{"kiln_old": "1"})
	g.patch(t, g.demo, id, "replace", "name", "new name").want(t, http.StatusOK).equal(t, "name", "new name")
	g.patch(t, g.demo, id, "add", "kiln_new", "2").want(t, http.StatusOK).keys(t, "", imageKeys+" kiln_old kiln_new")
	g.patch(t, g.demo, id, "add", "kiln_new", "3").want(t, http.StatusOK).equal(t, "kiln_new", "3")
	g.patch(t, g.demo, id, "remove", "kiln_old", nil).want(t, http.StatusOK).keys(t, "", imageKeys+" kiln_new")
	g.patch(t, g.demo, id, "replace", "os_hidden", true).want(t, http.StatusOK).equal(t, "os_hidden", true)
	g.patch(t, g.demo, id, "replace", "tags", []string{"x"}).want(t, http.StatusOK).equal(t, "tags", []string{"x"})
	g.patch(t, g.demo, id, "replace", "visibility", "private").want(t, http.StatusOK).equal(t, "visibility", "private")
	for _, c := range []struct {
		op, key string
		value   any
		status  int
		text    string
	}{
		{"replace", "kiln_none", "x", http.StatusConflict, "Property kiln_none does not exist."},
		{"remove", "kiln_none", nil, http.StatusConflict, "Property kiln_none does not exist."},
		{"remove", "name", nil, http.StatusForbidden, "Access was denied to this resource.<br /><br />\nProperty name may not be removed."},
		{"replace", "status", "active", http.StatusForbidden, "Attribute 'status' is read-only."},
		{"add", "deleted", "x", http.StatusForbidden, "Attribute 'deleted' is reserved."},
		{"add", "os_glance_x", "x", http.StatusForbidden, "Attribute 'os_glance_x' is reserved."},
		{"replace", "visibility", "public", http.StatusForbidden, ""},
		{"replace", "owner", "none", http.StatusForbidden, "Owner can't be updated by non admin."},
		{"replace", "disk_format", "floppy", http.StatusBadRequest, "Provided object does not match schema 'image'"},
		{"add", "kiln_number", 1, http.StatusBadRequest, "is not of type 'string'"},
		{"move", "name", "x", http.StatusBadRequest, "Invalid operation: `move`."},
		{"add", "a/b", "x", http.StatusBadRequest, "Invalid JSON pointer for this resource: '/a/b'"},
	} {
		t.Run(c.op+" "+c.key, func(t *testing.T) { glanceError(t, g.patch(t, g.demo, id, c.op, c.key, c.value), c.status, c.text) })
	}
	g.demo.call(t, http.MethodPatch, "image", "/v2/images/"+id, []any{}, "Content-Type", "application/json").want(t, http.StatusUnsupportedMediaType)
	glanceError(t, g.patch(t, g.reader, id, "replace", "name", "x"), http.StatusForbidden, "")
	glanceError(t, g.patch(t, g.other, id, "replace", "name", "x"), http.StatusNotFound, "No image found with ID "+id)
	g.demo.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK).equal(t, "name", "new name").keys(t, "", imageKeys+" kiln_new")

	// All changes or none.
	two := []any{map[string]any{"op": "replace", "path": "/name", "value": "half"}, map[string]any{"op": "remove", "path": "/kiln_none"}}
	g.demo.call(t, http.MethodPatch, "image", "/v2/images/"+id, two, "Content-Type", "application/openstack-images-v2.1-json-patch").want(t, http.StatusConflict)
	g.demo.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK).equal(t, "name", "new name")
}

func glanceDelete(t *testing.T, g *glanceUsers) {
	id := g.full(t, []byte("x"))
	g.patch(t, g.demo, id, "replace", "protected", true).want(t, http.StatusOK)
	glanceError(t, g.demo.delete(t, "image", "/v2/images/"+id), http.StatusForbidden, "Image "+id+" is protected and cannot be deleted.")
	g.patch(t, g.demo, id, "replace", "protected", false).want(t, http.StatusOK)
	glanceError(t, g.reader.delete(t, "image", "/v2/images/"+id), http.StatusForbidden, "")
	glanceError(t, g.other.delete(t, "image", "/v2/images/"+id), http.StatusNotFound, "Failed to find image "+id+" to delete")
	g.demo.delete(t, "image", "/v2/images/"+id).want(t, http.StatusNoContent)
	glanceError(t, g.demo.delete(t, "image", "/v2/images/"+id), http.StatusNotFound, "Failed to find image "+id+" to delete")
	glanceError(t, g.demo.get(t, "image", "/v2/images/"+id), http.StatusNotFound, "No image found with ID "+id)
	g.demo.get(t, "image", "/v2/images/"+id+"/file").want(t, http.StatusNotFound)
	glanceError(t, g.demo.post(t, "image", "/v2/images", map[string]any{"id": id}), http.StatusConflict, "Image ID "+id+" already exists!")
}

func glanceIsolation(t *testing.T, g *glanceUsers) {
	id := g.full(t, []byte("x"))
	g.reader.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK)
	g.admin.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK)
	glanceError(t, g.other.get(t, "image", "/v2/images/"+id), http.StatusNotFound, "No image found with ID "+id)
	g.patch(t, g.admin, id, "replace", "visibility", "public").want(t, http.StatusOK)
	g.other.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK)
	g.other.get(t, "image", "/v2/images/"+id+"/file").want(t, http.StatusOK)
	glanceError(t, g.patch(t, g.other, id, "replace", "name", "x"), http.StatusForbidden, "")
	glanceError(t, g.other.delete(t, "image", "/v2/images/"+id), http.StatusForbidden, "")
	g.patch(t, g.admin, id, "replace", "visibility", "community").want(t, http.StatusOK)
	g.other.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK)
	name := g.demo.get(t, "image", "/v2/images/"+id).text("name")
	g.other.get(t, "image", "/v2/images?name="+name).want(t, http.StatusOK).equal(t, "images", []any{})
	g.other.get(t, "image", "/v2/images?visibility=community&name="+name).want(t, http.StatusOK).equal(t, "images.0.id", id)
}

func glanceMembers(t *testing.T, g *glanceUsers) {
	id := g.full(t, []byte("x"))
	base := "/v2/images/" + id + "/members"
	r := g.demo.post(t, "image", base, map[string]any{"member": g.other.projectID}).want(t, http.StatusOK)
	r.keys(t, "", "member_id image_id status created_at updated_at schema").equal(t, "status", "pending").equal(t, "schema", "/v2/schemas/member")
	glanceError(t, g.demo.post(t, "image", base, map[string]any{"member": g.other.projectID}), http.StatusConflict, "is duplicated for image")
	g.other.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK)
	name := g.demo.get(t, "image", "/v2/images/"+id).text("name")
	g.other.get(t, "image", "/v2/images?name="+name).want(t, http.StatusOK).equal(t, "images", []any{})
	g.demo.put(t, "image", base+"/"+g.other.projectID, map[string]any{"status": "accepted"}).want(t, http.StatusForbidden)
	g.other.put(t, "image", base+"/"+g.other.projectID, map[string]any{"status": "maybe"}).want(t, http.StatusBadRequest)
	g.other.put(t, "image", base+"/"+g.other.projectID, map[string]any{"status": "accepted"}).want(t, http.StatusOK).equal(t, "status", "accepted")
	g.other.get(t, "image", "/v2/images?name="+name).want(t, http.StatusOK).equal(t, "images.0.id", id)
	g.demo.get(t, "image", base).want(t, http.StatusOK).equal(t, "members.0.member_id", g.other.projectID).keys(t, "", "members schema")
	g.other.delete(t, "image", base+"/"+g.other.projectID).want(t, http.StatusForbidden)
	g.demo.delete(t, "image", base+"/"+g.other.projectID).want(t, http.StatusNoContent)
	g.demo.delete(t, "image", base+"/"+g.other.projectID).want(t, http.StatusNotFound)
	g.other.get(t, "image", "/v2/images/"+id).want(t, http.StatusNotFound)
	private := g.image(t, map[string]any{"visibility": "private"})
	glanceError(t, g.demo.post(t, "image", "/v2/images/"+private+"/members", map[string]any{"member": g.other.projectID}), http.StatusForbidden, "Not allowed to create members for image "+private+".")
}

func glanceList(t *testing.T, g *glanceUsers) {
	mark := uuid.NewString()
	var ids []string
	for _, name := range []string{"c", "a", "b"} {
		ids = append(ids, g.image(t, map[string]any{"name": "conformance-" + mark + "-" + name, "kiln_mark": mark, "tags": []string{"conformance-" + name}}))
	}
	ask := func(query string) *reply {
		return g.demo.get(t, "image", "/v2/images?kiln_mark="+mark+query).want(t, http.StatusOK)
	}
	r := ask("&sort=name:asc&limit=2")
	r.keys(t, "", "images first next schema").equal(t, "schema", "/v2/schemas/images")
	r.equal(t, "images.0.id", ids[1]).equal(t, "images.1.id", ids[2]).equal(t, "images.2", nil)
	if !strings.HasPrefix(r.text("next"), "/v2/images?") || !strings.Contains(r.text("next"), "marker="+ids[2]) || !strings.Contains(r.text("next"), "limit=2") {
		t.Errorf("next is %q", r.text("next"))
	}
	r = g.demo.get(t, "image", r.text("next")).want(t, http.StatusOK)
	r.equal(t, "images.0.id", ids[0]).equal(t, "images.1", nil).keys(t, "", "images first schema")
	for query, want := range map[string][]string{
		"&name=conformance-" + mark + "-a":                                         {ids[1]},
		"&name=in:conformance-" + mark + "-a,conformance-" + mark + "-c&sort=name": {ids[0], ids[1]},
		"&tag=conformance-b":                 {ids[2]},
		"&status=active":                     {},
		"&status=in:active,queued&sort=name": {ids[0], ids[2], ids[1]},
		"&owner=" + g.demo.projectID + "&sort_key=name&sort_dir=asc": {ids[1], ids[2], ids[0]},
		"&disk_format=qcow2":                  {},
		"&visibility=shared&sort=name:desc":   {ids[0], ids[2], ids[1]},
		"&visibility=public":                  {},
		"&protected=true":                     {},
		"&created_at=lt:2020-01-01T00:00:00Z": {},
		"&sort=name:asc&marker=" + ids[1]:     {ids[2], ids[0]},
	} {
		if got := values(ask(query).list("images"), "id"); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
	g.patch(t, g.demo, ids[0], "replace", "os_hidden", true).want(t, http.StatusOK)
	if got := values(ask("&os_hidden=true").list("images"), "id"); !slices.Equal(got, ids[:1]) {
		t.Errorf("hidden images: %v", got)
	}
	if got := ask("").list("images"); len(got) != 2 {
		t.Errorf("a hidden image is listed: %d images", len(got))
	}
	if got := g.other.get(t, "image", "/v2/images?kiln_mark="+mark).want(t, http.StatusOK).list("images"); len(got) != 0 {
		t.Errorf("somebody else sees %d images", len(got))
	}
	for _, query := range []string{"limit=-1", "limit=many", "marker=" + uuid.NewString(), "sort=colour", "sort=name:up", "os_hidden=maybe", "visibility=secret", "protected=maybe"} {
		glanceError(t, g.demo.get(t, "image", "/v2/images?"+query), http.StatusBadRequest, "")
	}
}

func glanceActions(t *testing.T, g *glanceUsers) {
	id := g.full(t, []byte("x"))
	path := "/v2/images/" + id
	g.demo.put(t, "image", path+"/tags/one", nil).want(t, http.StatusNoContent)
	g.demo.get(t, "image", path).want(t, http.StatusOK).equal(t, "tags", []string{"one"})
	g.demo.delete(t, "image", path+"/tags/one").want(t, http.StatusNoContent)
	g.demo.delete(t, "image", path+"/tags/one").want(t, http.StatusNotFound)
	g.admin.post(t, "image", path+"/actions/deactivate", nil).want(t, http.StatusNoContent)
	g.demo.get(t, "image", path).want(t, http.StatusOK).equal(t, "status", "deactivated")
	glanceError(t, g.demo.get(t, "image", path+"/file"), http.StatusForbidden, "The requested image has been deactivated. Image data download is forbidden.")
	g.admin.post(t, "image", path+"/actions/reactivate", nil).want(t, http.StatusNoContent)
	g.demo.get(t, "image", path+"/file").want(t, http.StatusOK)
}

func glanceStores(t *testing.T, g *glanceUsers) {
	r := g.demo.get(t, "image", "/v2/info/stores").want(t, http.StatusOK)
	r.equal(t, "stores.0.default", "true").equal(t, "stores.1.default", nil)
	if len(r.list("stores")) < 2 {
		t.Fatalf("copy-image needs two stores: %s", short(r.raw))
	}
	r = g.admin.get(t, "image", "/v2/info/stores/detail").want(t, http.StatusOK)
	r.equal(t, "stores.0.type", "file").keys(t, "stores.0.properties", "data_dir chunk_size thin_provisioning")
	glanceError(t, g.demo.get(t, "image", "/v2/info/stores/detail"), http.StatusForbidden, "")
	g.demo.get(t, "image", "/v2/info/import").want(t, http.StatusOK).keys(t, "import-methods", "description type value")
	g.demo.get(t, "image", "/v2/schemas/image").want(t, http.StatusOK).equal(t, "name", "image").equal(t, "properties.stores.readOnly", true)
}

// settle waits until no import task holds the image.
func (g *glanceUsers) settle(t *testing.T, id string) *reply {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		r := g.admin.get(t, "image", "/v2/images/"+id).want(t, http.StatusOK)
		if at(r.body, "os_glance_import_task") == nil {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("the import does not end: %s", short(r.raw))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func copyTo(stores ...string) map[string]any {
	return map[string]any{"method": map[string]string{"name": "copy-image"}, "stores": stores}
}

func glanceCopy(t *testing.T, g *glanceUsers) {
	stores := values(g.demo.get(t, "image", "/v2/info/stores").want(t, http.StatusOK).list("stores"), "id")
	id := g.full(t, bytes.Repeat([]byte("copy"), 1<<20))
	path := "/v2/images/" + id
	glanceError(t, g.demo.post(t, "image", path+"/import", copyTo(stores[1])), http.StatusForbidden, "")
	g.admin.post(t, "image", path+"/import", copyTo(stores[1])).want(t, http.StatusAccepted)
	r := g.settle(t, id)
	r.equal(t, "status", "active").equal(t, "os_glance_importing_to_stores", "").equal(t, "os_glance_failed_import", "")
	if have := strings.Split(r.text("stores"), ","); !slices.Contains(have, stores[0]) || !slices.Contains(have, stores[1]) {
		t.Errorf("stores %v", have)
	}
	if len(r.list("locations")) != 2 {
		t.Errorf("locations %s", render(r.list("locations")))
	}
	tasks := g.admin.get(t, "image", path+"/tasks").want(t, http.StatusOK)
	tasks.equal(t, "tasks.0.type", "api_image_import").equal(t, "tasks.0.image_id", id).equal(t, "tasks.0.status", "success")
	glanceError(t, g.admin.post(t, "image", path+"/import", copyTo(stores[1])), http.StatusBadRequest, "Image is already present at store '"+stores[1]+"'")

	g.demo.delete(t, "image", "/v2/stores/"+stores[1]+"/"+id).want(t, http.StatusForbidden)
	g.admin.delete(t, "image", "/v2/stores/"+stores[1]+"/"+id).want(t, http.StatusNoContent)
	g.admin.get(t, "image", path).want(t, http.StatusOK).equal(t, "stores", stores[0])
	glanceError(t, g.admin.delete(t, "image", "/v2/stores/"+stores[0]+"/"+id), http.StatusForbidden, "")
	g.demo.get(t, "image", path+"/file").want(t, http.StatusOK)
	g.admin.post(t, "image", path+"/import", map[string]any{"method": map[string]string{"name": "copy-image"}, "stores": []string{stores[1]}}).want(t, http.StatusAccepted)
	g.settle(t, id)
}

func glanceDirect(t *testing.T, g *glanceUsers) {
	id := g.image(t, nil)
	path := "/v2/images/" + id
	direct := map[string]any{"method": map[string]string{"name": "glance-direct"}}
	glanceError(t, g.demo.post(t, "image", path+"/import", direct), http.StatusConflict, "Image needs to be staged before 'glance-direct' method can be used")
	g.demo.put(t, "image", path+"/stage", []byte("staged bytes")).want(t, http.StatusNoContent)
	r := g.demo.get(t, "image", path).want(t, http.StatusOK).equal(t, "status", "uploading").equal(t, "size", 12)
	r.equal(t, "checksum", nil).equal(t, "stores", nil)
	glanceError(t, g.demo.put(t, "image", path+"/stage", []byte("again")), http.StatusConflict, "Image status transition from uploading to uploading is not allowed")
	g.demo.post(t, "image", path+"/import", direct).want(t, http.StatusAccepted)
	r = g.settle(t, id)
	r.equal(t, "status", "active").equal(t, "size", 12)
	if got := g.demo.get(t, "image", path+"/file").want(t, http.StatusOK); string(got.raw) != "staged bytes" {
		t.Errorf("got %q", got.raw)
	}
	glanceError(t, g.demo.post(t, "image", path+"/import", direct), http.StatusConflict, "Image with status active cannot be target for import")
}

func glanceRefusedImports(t *testing.T, g *glanceUsers) {
	id := g.full(t, []byte("x"))
	path := "/v2/images/" + id + "/import"
	glanceError(t, g.admin.post(t, "image", path, map[string]any{}), http.StatusBadRequest, "Import request requires a 'method' field.")
	glanceError(t, g.admin.post(t, "image", path, map[string]any{"method": map[string]any{}}), http.StatusBadRequest, "Import request requires a 'name' field.")
	glanceError(t, g.admin.post(t, "image", path, map[string]any{"method": map[string]any{"name": "magic"}}), http.StatusBadRequest, "Unknown import method name 'magic'.")
	glanceError(t, g.admin.post(t, "image", path, copyTo("none")), http.StatusConflict, "none")
	queued := g.image(t, nil)
	glanceError(t, g.admin.post(t, "image", "/v2/images/"+queued+"/import", copyTo("file2")), http.StatusConflict, "Only images with status active can be targeted for copying")
	glanceError(t, g.admin.post(t, "image", "/v2/images/"+uuid.NewString()+"/import", copyTo("file2")), http.StatusNotFound, "No image found with ID ")
}
