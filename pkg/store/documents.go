package store

import (
	"bytes"
	"context"
	"slices"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/proof"
)

var _ proof.Store = (*DB)(nil)

var documentTable = tableOf[proof.Document](spec{name: "documents", resource: "document", key: "image_id", skip: []string{"packed"}})

// documentPart is the most bytes of a document in one row: well below MariaDB's max_allowed_packet, whose default is 16 MiB.
const documentPart = 1 << 20

// PutDocuments implements proof.Store.
func (db *DB) PutDocuments(ctx context.Context, imageID string, docs []proof.Document) error {
	return db.InTx(ctx, func(ctx context.Context) error {
		for _, d := range docs {
			if err := db.deleteDocuments(ctx, imageID, " AND `kind` = ?", d.Kind); err != nil {
				return err
			}
			d.ImageID = imageID
			if err := documentTable.insert(ctx, db, "", d); err != nil {
				return err
			}
			seq := 0
			for part := range slices.Chunk(d.Packed, documentPart) {
				_, err := db.exec(ctx, "document", d.Kind, "INSERT INTO `document_parts` (`image_id`, `kind`, `seq`, `body`) VALUES (?, ?, ?, ?)", imageID, d.Kind, seq, part)
				if err != nil {
					return err
				}
				seq++
			}
		}
		return nil
	})
}

// ListDocuments implements proof.Store.
func (db *DB) ListDocuments(ctx context.Context, imageID string) ([]proof.Document, error) {
	return documentTable.all(ctx, db, map[string]string{"image_id": imageID}, " ORDER BY `kind`")
}

// FindDocument implements proof.Store. Both tables are read in one transaction: a document that is replaced meanwhile is
// the old one or the new one.
func (db *DB) FindDocument(ctx context.Context, imageID, kind string) (d proof.Document, err error) {
	err = db.InTx(ctx, func(ctx context.Context) error {
		if d, err = documentTable.find(ctx, db, kind, map[string]string{"image_id": imageID, "kind": kind}); err != nil {
			return err
		}
		var packed bytes.Buffer
		err := db.each(ctx, "document", kind, func(r *sqlx.Rows) error {
			var part []byte
			if err := r.Scan(&part); err != nil {
				return err
			}
			packed.Write(part)
			return nil
		}, "SELECT `body` FROM `document_parts` WHERE `image_id` = ? AND `kind` = ? ORDER BY `seq`", imageID, kind)
		d.Packed = packed.Bytes()
		return err
	})
	return d, err
}

// DeleteDocuments implements proof.Store.
func (db *DB) DeleteDocuments(ctx context.Context, imageID string) error {
	return db.InTx(ctx, func(ctx context.Context) error { return db.deleteDocuments(ctx, imageID, "") })
}

func (db *DB) deleteDocuments(ctx context.Context, imageID, and string, args ...any) error {
	for _, table := range []string{"document_parts", "documents"} {
		if _, err := db.exec(ctx, "document", imageID, "DELETE FROM "+quote(table)+" WHERE `image_id` = ?"+and, append([]any{imageID}, args...)...); err != nil {
			return err
		}
	}
	return nil
}
