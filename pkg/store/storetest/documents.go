package storetest

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/proof"
	"github.com/kiln-cloud/kiln/pkg/store"
)

func testDocuments(t *testing.T, db *store.DB) {
	ctx := t.Context()
	r := rand.New(rand.NewPCG(1, 2))
	big := make([]byte, 3<<20+17) // several rows, and bytes that are no text
	for i := range big {
		big[i] = byte(r.Uint32())
	}
	doc := func(kind string, text []byte) proof.Document {
		d, err := proof.NewDocument(kind, "application/json", text, base)
		must(t, err)
		return d
	}
	files, bom := doc(proof.KindFiles, big), doc(proof.KindCycloneDX, []byte("{}"))
	for range 2 { // again changes nothing
		must(t, db.PutDocuments(ctx, "i1", []proof.Document{files, bom}))
	}
	must(t, db.PutDocuments(ctx, "i2", []proof.Document{doc(proof.KindFiles, []byte("of another image"))}))
	list, err := db.ListDocuments(ctx, "i1")
	must(t, err)
	plain := func(d proof.Document) proof.Document {
		d.ImageID, d.Packed = "i1", nil
		return d
	}
	equal(t, list, []proof.Document{plain(bom), plain(files)})
	found := func(imageID, kind string, want []byte) {
		t.Helper()
		d, err := db.FindDocument(ctx, imageID, kind)
		must(t, err)
		text, err := d.Text()
		must(t, err)
		if !bytes.Equal(text, want) || d.Size != int64(len(want)) || d.ImageID != imageID {
			t.Fatalf("%d bytes of %s %s, want %d", len(text), imageID, kind, len(want))
		}
	}
	found("i1", proof.KindFiles, big)
	must(t, db.PutDocuments(ctx, "i1", []proof.Document{doc(proof.KindFiles, []byte("shorter"))}))
	found("i1", proof.KindFiles, []byte("shorter"))
	found("i1", proof.KindCycloneDX, []byte("{}"))
	must(t, db.PutDocuments(ctx, "i1", []proof.Document{doc(proof.KindFiles, nil)}))
	found("i1", proof.KindFiles, nil)
	_, err = db.FindDocument(ctx, "i1", proof.KindLock)
	wantErr(t, err, errs.NotFound, "kiln.document.not_found")
	for range 2 {
		must(t, db.DeleteDocuments(ctx, "i1"))
	}
	_, err = db.FindDocument(ctx, "i1", proof.KindFiles)
	wantErr(t, err, errs.NotFound, "kiln.document.not_found")
	found("i2", proof.KindFiles, []byte("of another image"))
}
