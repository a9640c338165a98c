# Writes dslabs' movielens as ratings.csv and films.csv, a column for each genre.
#
#   Rscript movielens.R LAZY-LOAD-DATABASE FOLDER

arguments <- commandArgs(trailingOnly = TRUE)
dslabs <- new.env()
invisible(lazyLoad(arguments[1], dslabs))
movielens <- dslabs$movielens

write <- function(rows, name)
  write.csv(rows, file.path(arguments[2], name), row.names = FALSE, na = "", fileEncoding = "UTF-8")

write(movielens[c("userId", "movieId", "rating", "timestamp")], "ratings.csv")

films <- movielens[!duplicated(movielens$movieId), ]
films$title[is.na(films$title)] <- "(title unknown)"
genres <- c("Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary",
            "Drama", "Fantasy", "Film-Noir", "Horror", "IMAX", "Musical", "Mystery", "Romance",
            "Sci-Fi", "Thriller", "War", "Western")
has <- sapply(genres, grepl, films$genres, fixed = TRUE)
write(cbind(films[c("movieId", "title", "year")], has), "films.csv")
