package scenario

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"

	"weft/test/bench/load"
)

// media measures uploads of random bytes, and downloads of them by another user.
func media(ctx context.Context, e *Env) error {
	users, err := e.users(ctx, creators)
	if err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{1})
	files, addresses := make([][]byte, e.Sizes.MediaFiles), make([]string, e.Sizes.MediaFiles)
	for i := range files {
		files[i] = make([]byte, e.Sizes.MediaBytes)
		if _, err := random.Read(files[i]); err != nil {
			return err
		}
	}
	up := e.meter("media-upload")
	up.start(ctx)
	err = parallel(ctx, creators, len(files), func(ctx context.Context, worker, i int) error {
		up.Do(func() (err error) {
			addresses[i], err = users[worker].Upload(ctx, "file "+strconv.Itoa(i)+".bin", "application/octet-stream", files[i])
			return err
		})
		return ctx.Err()
	})
	up.stop(ctx)
	up.finish()
	if err != nil {
		return err
	}
	down := e.meter("media-download")
	down.start(ctx)
	err = parallel(ctx, creators, len(files), func(ctx context.Context, worker, i int) error {
		down.Do(func() error { return download(ctx, users[(worker+1)%creators], addresses[i], files[i]) })
		return ctx.Err()
	})
	down.stop(ctx)
	down.finish()
	return err
}

func download(ctx context.Context, u *load.User, address string, want []byte) error {
	a, err := u.Download(ctx, address)
	if err != nil {
		return err
	}
	defer a.Release()
	if !bytes.Equal(a.Body(), want) {
		return fmt.Errorf("%s: %d bytes came that are not the %d that were uploaded", address, len(a.Body()), len(want))
	}
	return nil
}
