package manage

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/proof"
)

// proof are the commands around the keys that statements about images are signed with.
func (t *tool) proof() *cobra.Command {
	cmd := &cobra.Command{Use: "proof", Short: "The keys that statements about images are signed with"}
	var force bool
	key := &cobra.Command{Use: "key FILE", Short: "Make a key: FILE for [build] signing_key of the workers, FILE.pub for [build] trusted_keys of the API",
		Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error { return t.makeKey(args[0], force) }}
	key.Flags().BoolVar(&force, "force", false, "replace a key that is there: what it signed can then only be checked with a copy of its public half")
	show := &cobra.Command{Use: "show FILE", Short: "Tell the id and the public half of a key", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			keys, err := proof.LoadKeys(args[0])
			for _, k := range keys {
				t.say("%s %s\n%s", k.Type, k.ID, k.PEM)
			}
			return err
		}}
	cmd.AddCommand(key, show)
	return cmd
}

func (t *tool) makeKey(path string, force bool) error {
	if _, err := os.Stat(path); err == nil && !force {
		return errors.New(path + " is there already: --force replaces it")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	private, public, err := proof.GenerateKey()
	if err != nil {
		return err
	}
	// Written beside it and moved: a worker that starts in this moment reads the old key or the new one.
	if err := os.WriteFile(path+".new", private, 0o600); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	if err := os.WriteFile(path+".pub", public, 0o644); err != nil {
		return err
	}
	keys, err := proof.ParseKeys(public)
	if err != nil {
		return err
	}
	t.say("key %s\n[build]\nsigning_key = %s\ntrusted_keys = %s.pub", keys[0].ID, path, path)
	return nil
}
